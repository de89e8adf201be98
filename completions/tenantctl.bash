# bash completion for tenantctl, written by `tenantctl completion bash`

_tenantctl() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}
    # bash splits --option=value into three words
    if [[ $cur == = ]]; then
        cur=
    elif [[ $prev == = ]]; then
        prev=${COMP_WORDS[COMP_CWORD - 2]}
    fi

    local command= count=0 skip= word i
    for ((i = 1; i < COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        if [[ $word == = ]]; then
            skip=1
        elif [[ $skip ]]; then
            skip=
        else
            case "$command $word" in
                *" --socket" | *" --url" | *" --ca" | *" --config" | *" --model" | *" --slots" | *" --context" | *" --cache" | *" --currency" | *" --timezone" | *" --lines" | *" -n" | *" --since" | *" --wait" | *" --tenant" | *" --interval" | *" --if-older" | *" --weight" | *" --priority" | *" --uid" | *" --adapter" | *" --on-anomaly" | " tenant add --system" | " tenant set --system" | " run --system" | " chat --system" | *" --max-concurrent" | *" --max-queued" | *" --max-tokens-per-request" | *" --max-context-tokens" | *" --requests-per-minute" | *" --tokens-per-minute" | *" --reserved-slots" | *" --on-limit" | *" --max-wait" | *" --billing-name" | *" --billing-address" | *" --billing-email" | *" --billing-tax-id" | *" --billing-reference" | *" --id" | *" --label" | *" --scope" | *" --expires" | *" --grace" | *" --file" | " run -f" | *" --max-tokens" | *" --timeout" | *" --temperature" | *" --top-k" | *" --top-p" | *" --min-p" | *" --typical-p" | *" --repeat-penalty" | *" --presence-penalty" | *" --frequency-penalty" | *" --seed" | *" --stop" | *" --grammar" | *" --schema" | *" --load" | *" --until" | *" --state" | *" --key" | *" --limit" | *" --window" | *" --month" | *" --by" | *" --warn" | *" --daily" | *" --weekly" | *" --monthly" | *" --daily-tokens" | *" --weekly-tokens" | *" --monthly-tokens" | *" --daily-engine-seconds" | *" --weekly-engine-seconds" | *" --monthly-engine-seconds" | *" --reason" | *" --from" | *" --input" | *" --cached" | *" --output" | *" --engine-hour" | *" --minimum" | *" --free-input-tokens" | *" --free-output-tokens" | *" --format" | *" --out" | *" --amount" | *" --state-dir" | *" --anchor" | *" --before" | *" --event" | *" --request" | *" --prompt" | *" --response" | *" --duration" | *" --api-key" | *" --tenant-key" | *" --extra" | *" --rate-scale" | *" --length-scale" | *" --vocabulary" | *" --png") [[ ${COMP_WORDS[i + 1]} == = ]] || skip=1 ;;
                *" -"*) ;;
                *)
                    case "$command $word" in
                        " init" | " serve" | " service" | " service install" | " service uninstall" | " service status" | " service logs" | " demo" | " status" | " top" | " web" | " doctor" | " model" | " model list" | " model info" | " tenant" | " tenant add" | " tenant list" | " tenant show" | " tenant set" | " tenant suspend" | " tenant resume" | " tenant rename" | " tenant remove" | " tenant forget" | " tenant export" | " tenant apply" | " key" | " key create" | " key list" | " key rotate" | " key revoke" | " run" | " chat" | " queue" | " requests" | " requests show" | " cancel" | " logs" | " anomalies" | " anomalies clear" | " alerts" | " alerts test" | " stats" | " compare" | " usage" | " limits" | " budget" | " budget set" | " budget list" | " budget topup" | " budget remove" | " price" | " price list" | " price set" | " invoice" | " invoice list" | " invoice show" | " invoice credit" | " invoice verify" | " export" | " ledger" | " ledger renew" | " ledger check" | " ledger backup" | " ledger restore" | " ledger prune" | " audit" | " audit log" | " audit match" | " audit verify" | " audit export" | " audit prune" | " bench" | " completion") command="$command $word" ;;
                        *) ((count++)) ;;
                    esac
                    ;;
            esac
        fi
    done

    case "$command $prev" in
        *" --socket" | *" --ca" | *" --config" | *" --model" | *" --adapter" | *" --file" | " run -f" | *" --grammar" | *" --schema" | *" --load" | *" --out" | *" --state-dir" | *" --anchor" | *" --png") _tenantctl_files "$cur"; return ;;
        *" --url" | *" --slots" | *" --context" | *" --currency" | *" --timezone" | *" --lines" | *" -n" | *" --since" | *" --wait" | *" --interval" | *" --if-older" | *" --weight" | " tenant add --system" | " tenant set --system" | " run --system" | " chat --system" | *" --id" | *" --label" | *" --expires" | *" --grace" | *" --max-tokens" | *" --timeout" | *" --temperature" | *" --top-k" | *" --top-p" | *" --min-p" | *" --typical-p" | *" --repeat-penalty" | *" --presence-penalty" | *" --frequency-penalty" | *" --seed" | *" --stop" | *" --until" | *" --limit" | *" --window" | *" --daily" | *" --weekly" | *" --monthly" | *" --daily-tokens" | *" --weekly-tokens" | *" --monthly-tokens" | *" --daily-engine-seconds" | *" --weekly-engine-seconds" | *" --monthly-engine-seconds" | *" --reason" | *" --input" | *" --cached" | *" --output" | *" --engine-hour" | *" --minimum" | *" --free-input-tokens" | *" --free-output-tokens" | *" --amount" | *" --before" | *" --event" | *" --prompt" | *" --response" | *" --duration" | *" --api-key" | *" --tenant-key" | *" --extra" | *" --rate-scale" | *" --length-scale" | *" --vocabulary") return ;;
        " init --cache") _tenantctl_words "on off" "$cur"; return ;;
        " tenant add --cache" | " tenant set --cache") _tenantctl_words "on off default" "$cur"; return ;;
        *" --tenant") _tenantctl_words "$(tenantctl _tenants 2>/dev/null)" "$cur"; return ;;
        *" --priority") _tenantctl_words "high standard low" "$cur"; return ;;
        *" --uid" | *" --billing-name" | *" --billing-address" | *" --billing-email" | *" --billing-tax-id" | *" --billing-reference" | *" --warn") _tenantctl_words "none" "$cur"; return ;;
        *" --on-anomaly") _tenantctl_words "log throttle suspend" "$cur"; return ;;
        *" --max-concurrent" | *" --max-queued" | *" --max-tokens-per-request" | *" --max-context-tokens" | *" --requests-per-minute" | *" --tokens-per-minute" | *" --reserved-slots" | *" --max-wait") _tenantctl_words "none default" "$cur"; return ;;
        *" --on-limit") _tenantctl_words "reject queue default" "$cur"; return ;;
        *" --scope") _tenantctl_words "run read" "$cur"; return ;;
        *" --state") _tenantctl_words "waiting running paused stop length cancelled disconnected failed interrupted" "$cur"; return ;;
        *" --key") _tenantctl_words "$(tenantctl _keys 2>/dev/null)" "$cur"; return ;;
        *" --month") _tenantctl_words "this last" "$cur"; return ;;
        *" --by") _tenantctl_words "day hour tenant key model adapter" "$cur"; return ;;
        *" --from") _tenantctl_words "now" "$cur"; return ;;
        " invoice --format" | " invoice show --format") _tenantctl_words "table json csv html md pdf" "$cur"; return ;;
        " export --format") _tenantctl_words "focus" "$cur"; return ;;
        " audit export --format") _tenantctl_words "jsonl csv" "$cur"; return ;;
        *" --request") _tenantctl_words "$(tenantctl _recent 2>/dev/null)" "$cur"; return ;;
    esac
    if [[ $cur == -* ]]; then
        case $command in
            "") _tenantctl_words "--socket --url --ca --admin --version --help -h" "$cur" ;;
            " init") _tenantctl_words "--config --model --slots --context --cache --currency --timezone --force --help -h" "$cur" ;;
            " serve") _tenantctl_words "--config --model --help -h" "$cur" ;;
            " service") _tenantctl_words "--help -h" "$cur" ;;
            " service install") _tenantctl_words "--system --user --config --gpu --no-gpu --new-ledger --dry-run --help -h" "$cur" ;;
            " service uninstall") _tenantctl_words "--system --user --help -h" "$cur" ;;
            " service status") _tenantctl_words "--system --user --json --help -h" "$cur" ;;
            " service logs") _tenantctl_words "--system --user --follow -f --lines -n --since --help -h" "$cur" ;;
            " demo") _tenantctl_words "--model --help -h" "$cur" ;;
            " status") _tenantctl_words "--wait --tenant --json --help -h" "$cur" ;;
            " top") _tenantctl_words "--tenant --interval --once --json --help -h" "$cur" ;;
            " web") _tenantctl_words "--close --json --help -h" "$cur" ;;
            " doctor") _tenantctl_words "--config --isolation --quick --if-older --json --help -h" "$cur" ;;
            " model") _tenantctl_words "--help -h" "$cur" ;;
            " model list") _tenantctl_words "--json --help -h" "$cur" ;;
            " model info") _tenantctl_words "--json --help -h" "$cur" ;;
            " tenant") _tenantctl_words "--help -h" "$cur" ;;
            " tenant add") _tenantctl_words "--weight --priority --uid --adapter --cache --unbilled --billed --allow-special --no-allow-special --on-anomaly --system --system-completions --no-system-completions --max-concurrent --max-queued --max-tokens-per-request --max-context-tokens --requests-per-minute --tokens-per-minute --reserved-slots --on-limit --max-wait --billing-name --billing-address --billing-email --billing-tax-id --billing-reference --json --help -h" "$cur" ;;
            " tenant list") _tenantctl_words "--json --help -h" "$cur" ;;
            " tenant show") _tenantctl_words "--json --help -h" "$cur" ;;
            " tenant set") _tenantctl_words "--weight --priority --uid --adapter --cache --unbilled --billed --allow-special --no-allow-special --on-anomaly --system --system-completions --no-system-completions --max-concurrent --max-queued --max-tokens-per-request --max-context-tokens --requests-per-minute --tokens-per-minute --reserved-slots --on-limit --max-wait --billing-name --billing-address --billing-email --billing-tax-id --billing-reference --json --help -h" "$cur" ;;
            " tenant suspend") _tenantctl_words "--json --help -h" "$cur" ;;
            " tenant resume") _tenantctl_words "--json --help -h" "$cur" ;;
            " tenant rename") _tenantctl_words "--json --help -h" "$cur" ;;
            " tenant remove") _tenantctl_words "--yes --json --help -h" "$cur" ;;
            " tenant forget") _tenantctl_words "--id --yes --json --help -h" "$cur" ;;
            " tenant export") _tenantctl_words "--help -h" "$cur" ;;
            " tenant apply") _tenantctl_words "--dry-run --prune --yes --help -h" "$cur" ;;
            " key") _tenantctl_words "--help -h" "$cur" ;;
            " key create") _tenantctl_words "--label --scope --expires --admin --json --help -h" "$cur" ;;
            " key list") _tenantctl_words "--admin --json --help -h" "$cur" ;;
            " key rotate") _tenantctl_words "--grace --expires --json --help -h" "$cur" ;;
            " key revoke") _tenantctl_words "--json --help -h" "$cur" ;;
            " run") _tenantctl_words "--tenant --file -f --system --chat --raw --max-tokens --timeout --json --timing --temperature --top-k --top-p --min-p --typical-p --repeat-penalty --presence-penalty --frequency-penalty --seed --stop --ignore-eos --grammar --schema --help -h" "$cur" ;;
            " chat") _tenantctl_words "--tenant --system --load --max-tokens --temperature --seed --no-history --plain --help -h" "$cur" ;;
            " queue") _tenantctl_words "--tenant --json --help -h" "$cur" ;;
            " requests") _tenantctl_words "--tenant --since --until --state --key --limit --wide --json --help -h" "$cur" ;;
            " requests show") _tenantctl_words "--tenant --json --help -h" "$cur" ;;
            " cancel") _tenantctl_words "--tenant --json --help -h" "$cur" ;;
            " logs") _tenantctl_words "--tenant --since --follow -f --limit --json --help -h" "$cur" ;;
            " anomalies") _tenantctl_words "--tenant --since --json --help -h" "$cur" ;;
            " anomalies clear") _tenantctl_words "--json --help -h" "$cur" ;;
            " alerts") _tenantctl_words "--json --help -h" "$cur" ;;
            " alerts test") _tenantctl_words "--json --help -h" "$cur" ;;
            " stats") _tenantctl_words "--tenant --window --month --since --until --json --csv --help -h" "$cur" ;;
            " compare") _tenantctl_words "--window --json --csv --help -h" "$cur" ;;
            " usage") _tenantctl_words "--by --month --since --until --tenant --json --csv --help -h" "$cur" ;;
            " limits") _tenantctl_words "--tenant --json --help -h" "$cur" ;;
            " budget") _tenantctl_words "--help -h" "$cur" ;;
            " budget set") _tenantctl_words "--key --warn --daily --weekly --monthly --daily-tokens --weekly-tokens --monthly-tokens --daily-engine-seconds --weekly-engine-seconds --monthly-engine-seconds --json --help -h" "$cur" ;;
            " budget list") _tenantctl_words "--tenant --json --help -h" "$cur" ;;
            " budget topup") _tenantctl_words "--key --reason --daily --weekly --monthly --daily-tokens --weekly-tokens --monthly-tokens --daily-engine-seconds --weekly-engine-seconds --monthly-engine-seconds --json --help -h" "$cur" ;;
            " budget remove") _tenantctl_words "--key --yes --json --help -h" "$cur" ;;
            " price") _tenantctl_words "--help -h" "$cur" ;;
            " price list") _tenantctl_words "--tenant --past --json --help -h" "$cur" ;;
            " price set") _tenantctl_words "--from --tenant --input --cached --output --engine-hour --minimum --free-input-tokens --free-output-tokens --like-all --json --help -h" "$cur" ;;
            " invoice") _tenantctl_words "--month --tenant --format --out --finalize --json --csv --help -h" "$cur" ;;
            " invoice list") _tenantctl_words "--tenant --month --json --help -h" "$cur" ;;
            " invoice show") _tenantctl_words "--format --json --help -h" "$cur" ;;
            " invoice credit") _tenantctl_words "--reason --amount --json --help -h" "$cur" ;;
            " invoice verify") _tenantctl_words "--json --help -h" "$cur" ;;
            " export") _tenantctl_words "--format --month --tenant --out --help -h" "$cur" ;;
            " ledger") _tenantctl_words "--help -h" "$cur" ;;
            " ledger renew") _tenantctl_words "--currency --state-dir --yes --json --help -h" "$cur" ;;
            " ledger check") _tenantctl_words "--state-dir --json --help -h" "$cur" ;;
            " ledger backup") _tenantctl_words "--state-dir --json --help -h" "$cur" ;;
            " ledger restore") _tenantctl_words "--anchor --state-dir --yes --json --help -h" "$cur" ;;
            " ledger prune") _tenantctl_words "--before --yes --json --help -h" "$cur" ;;
            " audit") _tenantctl_words "--help -h" "$cur" ;;
            " audit log") _tenantctl_words "--tenant --since --until --event --request --id --limit --follow -f --json --help -h" "$cur" ;;
            " audit match") _tenantctl_words "--tenant --prompt --response --since --until --id --json --help -h" "$cur" ;;
            " audit verify") _tenantctl_words "--anchor --state-dir --json --help -h" "$cur" ;;
            " audit export") _tenantctl_words "--format --tenant --since --until --event --request --id --help -h" "$cur" ;;
            " audit prune") _tenantctl_words "--before --yes --json --help -h" "$cur" ;;
            " bench") _tenantctl_words "--duration --seed --url --api-key --tenant-key --extra --rate-scale --length-scale --vocabulary --png --json --help -h" "$cur" ;;
            " completion") _tenantctl_words "--install --help -h" "$cur" ;;
        esac
        return
    fi
    case "$command $count" in
        " 0") _tenantctl_words "init serve service demo status top web doctor model tenant key run chat queue requests cancel logs anomalies alerts stats compare usage limits budget price invoice export ledger audit bench completion" "$cur" ;;
        " service 0") _tenantctl_words "install uninstall status logs" "$cur" ;;
        " model 0") _tenantctl_words "list info" "$cur" ;;
        " model list 0") _tenantctl_files "$cur" ;;
        " model info 0") _tenantctl_files "$cur" ;;
        " tenant 0") _tenantctl_words "add list show set suspend resume rename remove forget export apply" "$cur" ;;
        " tenant show 0") _tenantctl_words "$(tenantctl _tenants 2>/dev/null)" "$cur" ;;
        " tenant set 0") _tenantctl_words "$(tenantctl _tenants 2>/dev/null)" "$cur" ;;
        " tenant suspend 0") _tenantctl_words "$(tenantctl _tenants 2>/dev/null)" "$cur" ;;
        " tenant resume 0") _tenantctl_words "$(tenantctl _tenants 2>/dev/null)" "$cur" ;;
        " tenant rename 0") _tenantctl_words "$(tenantctl _tenants 2>/dev/null)" "$cur" ;;
        " tenant remove 0") _tenantctl_words "$(tenantctl _tenants 2>/dev/null)" "$cur" ;;
        " tenant forget 0") _tenantctl_words "$(tenantctl _tenants 2>/dev/null)" "$cur" ;;
        " tenant apply 0") _tenantctl_files "$cur" ;;
        " key 0") _tenantctl_words "create list rotate revoke" "$cur" ;;
        " key create 0") _tenantctl_words "$(tenantctl _tenants 2>/dev/null)" "$cur" ;;
        " key list 0") _tenantctl_words "$(tenantctl _tenants 2>/dev/null)" "$cur" ;;
        " key rotate 0") _tenantctl_words "$(tenantctl _keys 2>/dev/null)" "$cur" ;;
        " key revoke 0") _tenantctl_words "$(tenantctl _keys 2>/dev/null)" "$cur" ;;
        " requests 0") _tenantctl_words "show" "$cur" ;;
        " requests show 0") _tenantctl_words "$(tenantctl _recent 2>/dev/null)" "$cur" ;;
        " cancel 0") _tenantctl_words "$(tenantctl _requests 2>/dev/null)" "$cur" ;;
        " anomalies 0") _tenantctl_words "clear" "$cur" ;;
        " anomalies clear 0") _tenantctl_words "$(tenantctl _tenants 2>/dev/null)" "$cur" ;;
        " alerts 0") _tenantctl_words "test" "$cur" ;;
        " budget 0") _tenantctl_words "set list topup remove" "$cur" ;;
        " budget set 0") _tenantctl_words "$(tenantctl _tenants 2>/dev/null)" "$cur" ;;
        " budget topup 0") _tenantctl_words "$(tenantctl _tenants 2>/dev/null)" "$cur" ;;
        " budget remove 0") _tenantctl_words "$(tenantctl _tenants 2>/dev/null)" "$cur" ;;
        " price 0") _tenantctl_words "list set" "$cur" ;;
        " invoice 0") _tenantctl_words "list show credit verify" "$cur" ;;
        " ledger 0") _tenantctl_words "renew check backup restore prune" "$cur" ;;
        " ledger backup 0") _tenantctl_files "$cur" ;;
        " ledger restore 0") _tenantctl_files "$cur" ;;
        " audit 0") _tenantctl_words "log match verify export prune" "$cur" ;;
        " bench 0") _tenantctl_words "solo flood flood-alone long-prompts long-alone overload weighted short-long on-off newcomer peak vtc-overload vtc-multi vtc-weighted vtc-proportional vtc-on-off-less vtc-on-off-overload vtc-poisson-short-long-1 vtc-poisson-short-long-2 vtc-increase vtc-dist-shift" "$cur" ;;
        " completion 0") _tenantctl_words "bash zsh fish" "$cur" ;;
    esac
}

_tenantctl_words() {
    mapfile -t COMPREPLY < <(compgen -W "$1" -- "$2")
}

_tenantctl_files() {
    compopt -o filenames
    mapfile -t COMPREPLY < <(compgen -f -- "$1")
}

complete -F _tenantctl tenantctl
