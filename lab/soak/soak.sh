# shellcheck shell=bash
# Two guests write to disks that outlive them, while one thing after another happens to them and their driver domains, in a
# random order that is the same for the same seed. After each, the guest has to find every record that it has said to be
# synced. In the end nothing is left: no domain, no node in xenstore, no page of memory.

MINUTES=${VD_SOAK_MINUTES:-30} SEED=${VD_SOAK_SEED:-1}
GUESTS=(left right)
ACTIONS=(work reboot shutdown destroy destroy_guest destroy_driver restart panic nmi plug plug pause balloon)
SLOT=5 # Free for a disk that comes and goes.
declare -A TIMES
declare -A PLUGGED
RANDOM=$SEED

# count_of NAME REGEX: how many lines of its console match. It may have none yet.
count_of() {
    local count
    count=$(grep -aEc "$2" "$(console "$1")" 2>/dev/null) || true
    echo "${count:-0}"
}

# more_lines NAME REGEX COUNT: whether there are more than that.
more_lines() { (($(count_of "$1" "$2") > $3)); }

# goes_on NAME: it syncs two more records than there are: the second is of a write that has begun since.
goes_on() {
    local before
    before=$(count_of "$1" '^guest: synced')
    wait_for 120 "$1 goes on" more_lines "$1" '^guest: (synced|.*FAILED)' $((before + 1))
    console_says "$1" FAILED && fail "$(grep -am 1 FAILED "$(console "$1")")"
    return 0
}

# boots NAME COMMAND...: after that command it boots, finds its records, and goes on.
boots() {
    local name=$1 before
    before=$(count_of "$name" '^guest: found')
    shift
    "$@"
    PLUGGED[$name]=''
    wait_for 300 "$name boots" more_lines "$name" '^guest: (found|.*FAILED)' "$before"
    goes_on "$name"
}

create() { expect_ok vdom create "/root/$1.cfg"; }

# What can happen.
work() { sleep $((1 + RANDOM % 5)); }

reboot() { boots "$1" type_at "$1" reboot; }

shutdown() {
    expect_ok xl shutdown "$1"
    wait_for_end 120 "$1"
    wait_for_end 60 "$1-vd"
    boots "$1" create "$1"
}

destroy() {
    expect_ok vdom destroy "$1"
    boots "$1" create "$1"
}

destroy_guest() {
    expect_ok xl destroy "$1"
    wait_for_end 60 "$1-vd"
    boots "$1" create "$1"
}

destroy_driver() {
    expect_ok xl destroy "$1-vd"
    destroy "$1"
}

restart() {
    expect_ok vdom restart "$1"
    goes_on "$1"
}

# succeeded NAME COMMAND...: after that command another driver domain takes the crashed one's place, which goes.
succeeded() {
    local name=$1 id
    id=$(xl domid "$1-vd")
    shift
    expect_ok "$@"
    wait_for 120 "another driver domain for $name" is_another "$name" "$id"
    goes_on "$name"
    wait_for 60 "the end of the crashed one of $name" eval "((\$(xl list | grep -c '^$name') == 2))"
}

panic() { succeeded "$1" type_at "$1-vd" panic; }

nmi() { succeeded "$1" xl trigger "$1-vd" nmi; }

# guest_does NAME STEP...: it does something with a disk that comes or goes, and succeeds.
guest_does() {
    local name=$1 line="^guest: step $2 " before
    shift
    before=$(count_of "$name" "$line")
    type_at "$name" "$*"
    wait_for 120 "$name: $*" more_lines "$name" "$line" "$before"
    console_says "$name" "${line}FAILED" && fail "$(grep -am 1 "${line}FAILED" "$(console "$name")")"
    goes_on "$name"
}

# A disk comes, or the one that came goes.
plug() {
    if [[ ! ${PLUGGED[$1]} ]]; then
        expect_ok vdom device-attach "$1" "slot=$SLOT,type=blk,backend=ram:4M,serial=LATE"
        guest_does "$1" take $SLOT LATE
        PLUGGED[$1]=yes
    else
        guest_does "$1" give $SLOT LATE
        expect_ok vdom device-detach "$1" $SLOT
        PLUGGED[$1]=''
    fi
}

pause() {
    expect_ok xl pause "$1"
    sleep $((RANDOM % 4))
    expect_ok xl unpause "$1"
    goes_on "$1"
}

balloon() {
    expect_ok xl mem-set "$1" $((200 + RANDOM % 40))
    goes_on "$1"
    expect_ok xl mem-set "$1" 256
    goes_on "$1"
}

free_memory() { xl info free_memory; }

# nothing_lost NAME: each time that it has booted it has found at least what it had said to be synced.
nothing_lost() {
    tr -d '\r' <"$(console "$1")" | awk -v name="$1" '
        /^guest: synced/ { if ($3 > synced) synced = $3 }
        /^guest: found/ { boots++; if ($3 < synced) { print name ": found " $3 " after " synced; bad = 1 }; synced = $3 }
        END { print name ": " boots " boots, " synced " records"; exit bad || boots == 0 }
    '
}

step "two guests; seed $SEED, $MINUTES minutes"
# The first domains leave pages with xenstored and the tools that stay there; only what comes then counts.
truncate -s 8M /root/warm.img
expect_ok vdom create "$(guest_config warm soak -vdom_ramdisk 'vdom_devices = [ "type=blk,backend=vbd:xvda" ]' \
    'vdom_disk = [ "format=raw,vdev=xvda,access=rw,target=/root/warm.img" ]')"
sleep 5
expect_ok vdom destroy warm
sleep 3
free=$(free_memory)
xenstore-ls -f / 2>/dev/null | cut -d = -f 1 | sort >/run/nodes
for name in "${GUESTS[@]}"; do
    truncate -s 8M "/root/$name.disk"
    guest_config "$name" soak 'on_reboot = "restart"' 'vdom_reserve = 16' -vdom_ramdisk 'vdom_devices = [
        "type=blk,backend=vbd:xvda,serial=LASTING", "type=blk,backend=ram:8M,serial=RAM",
        "type=net,backend=switch,mac=00:16:3e:00:00:01", "type=net,backend=switch,mac=00:16:3e:00:00:02",
        "type=rng,backend=cpu,rate=1M" ]' "vdom_disk = [ \"format=raw,vdev=xvda,access=rw,target=/root/$name.disk\" ]"
    boots "$name" create "$name"
done

end=$((SECONDS + 60 * MINUTES)) rounds=0
while ((SECONDS < end)); do
    name=${GUESTS[RANDOM % ${#GUESTS[@]}]} action=${ACTIONS[RANDOM % ${#ACTIONS[@]}]}
    rounds=$((rounds + 1))
    step "$rounds: $action $name"
    "$action" "$name"
    TIMES[$action]=$((${TIMES[$action]:-0} + 1))
done

step "the end"
for name in "${GUESTS[@]}"; do
    expect_ok vdom destroy "$name"
done
for name in "${GUESTS[@]}"; do
    nothing_lost "$name" || fail "$name has lost what was synced"
done
for action in "${!TIMES[@]}"; do
    echo "$action: ${TIMES[$action]} times"
done
assert_clean
wait_for 5 "no zombie" no_zombie
no_warnings "PANIC|asked for at the console|NMI"
has_all() { [[ $(free_memory) == "$free" ]]; }
wait_for 20 "Xen has all of its memory again ($free MiB; now $(free_memory))" has_all
echo "free memory of Xen: $free MiB, as before"
xenstore-ls -f / 2>/dev/null | cut -d = -f 1 | sort | diff /run/nodes - || fail "xenstore has other nodes than before"
echo "xenstore: $(wc -l </run/nodes) nodes, as before"
