# shellcheck shell=bash
# A virtio console and named ports of a stock guest, reached from dom0 through the driver domain's own console: a shell, files both
# ways, sizes, what was missed, and the driver domain's log and commands all the while.
# half: second

step "a guest with a console device"
follow_console console
expect_ok vdom create /root/examples/console.cfg
wait_for 60 "the guest is ready" console_says console '^guest: ready'
sent=0 received=0

# type_until REGEX LINE: writes the line, and ends when the guest's console has shown something that matches.
type_until() {
    printf '%s' "$2"
    timeout $((20 * SLOWNESS)) sh -c "until tr -d '\r' </run/shown | grep -qE '$1'; do sleep 0.1; done"
}

# at_shell REGEX LINE [OPTION...]: types a line at the guest's shell, and prints what it shows, which has to match.
at_shell() {
    local regex=$1 line=$2
    shift 2
    printf '%s' "$line" >/run/typed
    : >/run/shown
    type_until "$regex" "$line" | vdom console --idle 0 "$@" console >/run/shown || fail "no $regex on the guest's console"
    account /run/typed /run/shown
    tr -d '\r' </run/shown | sed 's/^/hvc1| /'
    echo
}

# account FILE FILE: what was sent and what was received.
account() {
    sent=$((sent + $(stat -c %s "$1"))) received=$((received + $(stat -c %s "$2")))
}

# saw STEP FIELD: what the guest says of a step.
saw() {
    sed -n "s/^guest: step $1 ok ([^)]*) //p" "$(console console)" | tr -d '\r' | cut -d ' ' -f "$2"
}

step "the driver domain's console takes commands"
type_at console-vd devices
wait_for 5 "an answer" console_says console-vd 'slot 0: console, port 1 data.*, port 2 log'

step "a shell, and what it has printed before"
at_shell '^printed early$' ""
at_shell '^answer-42$' $'echo answer-$((6 * 7))\n'
at_shell '^43 132$' $'stty size\n' --size 132x43

step "a file to the guest, and one from it"
head -c 262144 /dev/urandom >/run/file
expect_ok vdom console console data </run/file >/run/none
account /run/file /run/none
received_it() { console_says console '^guest: step receive ok'; }
wait_for 60 "the guest has it" received_it
assert_eq "$(saw receive 1)" "$(sha256sum </run/file | cut -d ' ' -f 1)" "the file that the guest has received"
assert_eq "$(saw receive 2)" 262144 "its bytes"
expect_ok vdom console --idle 60 console data </dev/null >/run/file
account /dev/null /run/file
sent_it() { console_says console '^guest: step send ok'; }
wait_for 20 "the guest has sent its own" sent_it
assert_eq "$(saw send 1)" "$(sha256sum </run/file | cut -d ' ' -f 1)" "the file that the guest has sent"

step "what was missed"
type_at console "say printed late"
said_it() { console_says console '^guest: said printed late'; }
wait_for 10 "the guest has printed something" said_it
at_shell 'printed late$' ""

step "what cannot be"
expect_fail 'there is no such domain' vdom console nobody </dev/null
expect_fail 'it has no port 3 .*there are: slot 0: 0 data log' vdom console console 3 </dev/null
vdom console --idle 20 console log </dev/null &
sleep 1
expect_fail 'somebody else is at' vdom console console </dev/null
kill $!
wait $! || true
xl console console-vd </dev/null >/dev/null &
sleep 1
expect_fail 'somebody else is at' vdom console console </dev/null
# It does not end with its input.
kill $!
wait $! || true

step "every byte is accounted for"
# What the shell has shown since.
expect_ok vdom console console </dev/null >/run/shown
account /dev/null /run/shown
sleep 1.5
vdom stats console >/run/stats
of() {
    awk -v name="device-0-$1" '$1 == name { print $2 }' /run/stats
}
assert_eq "$(of in-bytes)" "$sent" "bytes from dom0"
assert_eq "$(of in-given)" "$sent" "bytes that the guest has taken"
assert_eq "$(of out-read)" "$received" "bytes to dom0"
assert_eq "$(of out-bytes)" "$received" "bytes that the guest has written"
for name in out-lost in-dropped control-bad errors faults bad-accesses refusals; do
    assert_eq "$(of $name)" 0 "device-0-$name"
done
echo "$sent bytes to the guest, $received from it; $(of control-taken) messages from its driver, $(of control-sent) to it"

step "a person at the driver domain's console"
type_at console-vd "attach 0"
wait_for 5 "the port" console_says console-vd 'slot 0, port 0: Ctrl-\^ ends this'
type_at console-vd "echo typed-\$((2 + 3))"
wait_for 10 "the shell's answer" console_says console-vd '^typed-5'
type_at console-vd $'\x1e'
wait_for 5 "the end of it" console_says console-vd '^console: back, as Ctrl-\^ was typed'
type_at console-vd help
wait_for 5 "help" console_says console-vd '^attach SLOT'

step "a person who has gone away without Ctrl-^"
type_at console-vd "attach 0 log"
wait_for 5 "the port" console_says console-vd 'slot 0, port 2: Ctrl-\^ ends this'
at_shell '^answer-56$' $'echo answer-$((7 * 8))\n'

step "leaving a guest that prints all the time"
type_until '^printing-99' $'n=0; while [ $n -lt 5000 ]; do echo printing-$n; n=$((n + 1)); done\n' |
    vdom console --idle 0 console >/run/shown 2>/run/said || cat /run/said
# It may have lost some of that, and says so; but it has been let go.
grep -q '^printing-99' /run/shown || fail "the guest does not print"
if grep -v 'output were lost' /run/said; then
    fail "that is not how it should end"
fi

step "input that nobody reads"
vdom console console log </run/file &
writer=$!
sleep 2
kill $writer
if wait $writer; then
    fail "vdom says that all of it got through"
fi

step "the guest ends"
type_at console end
wait_for_end 30 console
wait_for_end 20 console-vd
grep -a 'slot 0: .* bytes out' "$(console console-vd)"
no_warnings
expect_ok vdom destroy console
assert_clean
