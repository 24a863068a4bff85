#!/usr/bin/env bash
# What a pod of train.yaml runs: the node's launcher, with the options of `accelerate launch`, `-m t2f_dist.train` and
# the options of the training.
#
#   launch/k8s/pod.sh --config_file launch/multi_node.yaml ... -m t2f_dist.train --config C --run /runs/r
#
# Exit codes, by which podFailurePolicy decides (see launch/outcome.py): 0 finished, 74 killed or failed by what may
# pass, 75 pre-empted, 76 as 74 but further than ever before, 78 to be mended. From the environment: T2F_LAUNCH, a name
# of the Job.
set -euo pipefail

training=("$@")
while ((${#training[@]} > 0)) && [[ ${training[0]} != t2f_dist.train ]]; do
    training=("${training[@]:1}")
done
if ((${#training[@]} == 0)); then
    echo "error: give pod.sh the options of accelerate launch, then -m t2f_dist.train and its options" >&2
    exit 78
fi
training=("${training[@]:1}")
outcome() { python launch/outcome.py "$@" "${training[@]}"; }
if ! checked="$(outcome --check)"; then
    echo "$checked"
    exit 78
fi
read -r began _ state <<<"$checked"
# This pod was lost when the run was at its end: the other ones are done, and would not come to meet it.
if [[ $state == finished ]]; then
    echo "finished: nothing is left to train"
    exit 0
fi
told=""
trap 'told=yes' TERM
# The launcher ignores SIGUSR1, also as its ranks start: they set handlers of their own.
# Pods may come hours apart, where nodes are scarce: they wait for each other, for that is no failure.
(
    trap "" USR1
    exec accelerate launch --machine_rank "${JOB_COMPLETION_INDEX:-0}" --rdzv_conf timeout=86400 "$@"
) &
launcher=$!

# Only this process is told that the pod must go. SIGTERM to the launcher would leave its ranks 30 s; SIGUSR1 to them
# leaves them the whole terminationGracePeriodSeconds to save. Those of other pods agree to stop at the same step.
rounds=0
while kill -0 "$launcher" 2>/dev/null; do
    if [[ -z $told ]]; then
        wait "$launcher" || true # also returns at a signal
        continue
    fi
    # The launcher's children are its ranks; more than once, since ranks that are starting have no ear yet.
    found=0
    for children in "/proc/$launcher/task/"*/children; do
        ranks=()
        read -r -a ranks 2>/dev/null <"$children" || true
        ((${#ranks[@]} == 0)) || kill -USR1 "${ranks[@]}" 2>/dev/null || true
        found=$((found + ${#ranks[@]}))
    done
    for _ in {1..10}; do
        kill -0 "$launcher" 2>/dev/null || break
        sleep 0.5
    done
    # Saved, but the launcher restarts ranks that leave, now in vain; rank 0 had time for its last words.
    # One without ranks still waits for other pods.
    if ((++rounds > 1)) && { ((found == 0)) || [[ $(outcome --since "$began") == preempted:* ]]; }; then
        kill -TERM "$launcher" 2>/dev/null || true
    fi
done

code=0
outcome --since "$began" || code=$?
exit "$code"
