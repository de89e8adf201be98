# fish completion for tenantctl, written by `python -m tenantctl.completions`

# What was typed so far, without options and their values: the command, then its arguments.
function __tenantctl_words
    set -l skip 0
    for word in (commandline -opc)[2..-1]
        if test $skip = 1
            set skip 0
            continue
        end
        switch $word
            case --socket --config --model --wait --weight --priority --uid --max-concurrent --max-queued --max-tokens-per-request --max-context-tokens --label --tenant --system --max-tokens --temperature --top-k --top-p --min-p --typical-p --repeat-penalty --presence-penalty --frequency-penalty --seed --stop --grammar --schema --limit --month
                set skip 1
            case '-*'
            case '*'
                echo $word
        end
    end
end

# __tenantctl_in COMMAND…: this command is being typed.
function __tenantctl_in
    set -l words (__tenantctl_words)
    set -l n (count $argv)
    test $n = 0; and return
    test (count $words) -ge $n; and test "$words[1..$n]" = "$argv"
end

# __tenantctl_at N COMMAND…: argument N of this command is next, counted from 0.
function __tenantctl_at
    __tenantctl_in $argv[2..-1]
    and test (count (__tenantctl_words)) = (math (count $argv) - 1 + $argv[1])
end

complete -c tenantctl -f
complete -c tenantctl -n '__tenantctl_at 0' -a init -d 'Write a configuration file, every setting explained'
complete -c tenantctl -n '__tenantctl_at 0' -a serve -d 'Run the daemon in the foreground'
complete -c tenantctl -n '__tenantctl_at 0' -a demo -d 'Two tenants at once on a daemon of their own: answers, shares, invoice'
complete -c tenantctl -n '__tenantctl_at 0' -a status -d 'Show the daemon, its engine and its tenants'
complete -c tenantctl -n '__tenantctl_at 0' -a tenant -d 'Who may use the model, and how much of it'
complete -c tenantctl -n '__tenantctl_at 0' -a key -d 'Keys of a tenant\'s clients'
complete -c tenantctl -n '__tenantctl_at 0' -a run -d 'Complete a prompt, printing the text as it comes'
complete -c tenantctl -n '__tenantctl_at 0' -a requests -d 'List recent requests, the newest first'
complete -c tenantctl -n '__tenantctl_at 0' -a cancel -d 'End a running or waiting request'
complete -c tenantctl -n '__tenantctl_at 0' -a usage -d 'Show what each tenant used in a month'
complete -c tenantctl -n '__tenantctl_at 0' -a invoice -d 'Print a month\'s invoice, for each tenant or for one'
complete -c tenantctl -n '__tenantctl_at 0' -a completion -d 'Print a shell\'s completion script'
complete -c tenantctl -n '__tenantctl_at 0' -l socket -r -F -d 'The daemon\'s socket. Default: TENANTD_SOCKET, else the configuration\'s.'
complete -c tenantctl -n '__tenantctl_at 0' -l version -d 'Print the version.'
complete -c tenantctl -n '__tenantctl_at 0' -l help -s h -d 'Show this message and exit.'
complete -c tenantctl -n '__tenantctl_in init' -l config -r -F -d 'Where to write. Default: TENANTD_CONFIG or ~/.config/tenantd/.'
complete -c tenantctl -n '__tenantctl_in init' -l model -r -F -d 'The model to serve.'
complete -c tenantctl -n '__tenantctl_in init' -l force -d 'Overwrite a file that is there.'
complete -c tenantctl -n '__tenantctl_in init' -l help -s h -d 'Show this message and exit.'
complete -c tenantctl -n '__tenantctl_in serve' -l config -r -F -d 'Default: TENANTD_CONFIG or ~/.config/tenantd/config.toml.'
complete -c tenantctl -n '__tenantctl_in serve' -l model -r -F -d 'Serve this instead of the configured model.'
complete -c tenantctl -n '__tenantctl_in serve' -l help -s h -d 'Show this message and exit.'
complete -c tenantctl -n '__tenantctl_in demo' -l model -r -F -d 'Model to serve. Default: the small one of the demo extra.'
complete -c tenantctl -n '__tenantctl_in demo' -l help -s h -d 'Show this message and exit.'
complete -c tenantctl -n '__tenantctl_in status' -l wait -x -d 'Wait so long for the model.'
complete -c tenantctl -n '__tenantctl_in status' -l json -d 'Print JSON.'
complete -c tenantctl -n '__tenantctl_in status' -l help -s h -d 'Show this message and exit.'
complete -c tenantctl -n '__tenantctl_at 0 tenant' -a add -d 'Add a tenant and print its key, which is shown this once'
complete -c tenantctl -n '__tenantctl_at 0 tenant' -a list -d 'List the tenants'
complete -c tenantctl -n '__tenantctl_at 0 tenant' -a show -d 'Show one tenant'
complete -c tenantctl -n '__tenantctl_at 0 tenant' -a set -d 'Change a tenant'
complete -c tenantctl -n '__tenantctl_at 0 tenant' -a suspend -d 'Refuse new requests; running ones finish'
complete -c tenantctl -n '__tenantctl_at 0 tenant' -a resume -d 'Take a suspended tenant\'s requests again'
complete -c tenantctl -n '__tenantctl_at 0 tenant' -a remove -d 'Remove a tenant and revoke its keys'
complete -c tenantctl -n '__tenantctl_in tenant' -l help -s h -d 'Show this message and exit.'
complete -c tenantctl -n '__tenantctl_in tenant add' -l weight -x -d 'Its share of the engine, next to the others\'.'
complete -c tenantctl -n '__tenantctl_in tenant add' -l priority -x -a 'high standard low' -d 'high counts eightfold, low an eighth.'
complete -c tenantctl -n '__tenantctl_in tenant add' -l uid -x -a 'none' -d 'A Unix user who acts as it; may be repeated.'
complete -c tenantctl -n '__tenantctl_in tenant add' -l max-concurrent -x -a 'none' -d 'Requests that run at the same time.'
complete -c tenantctl -n '__tenantctl_in tenant add' -l max-queued -x -a 'none' -d 'Requests that wait; more are refused.'
complete -c tenantctl -n '__tenantctl_in tenant add' -l max-tokens-per-request -x -a 'none' -d 'Output tokens of one request.'
complete -c tenantctl -n '__tenantctl_in tenant add' -l max-context-tokens -x -a 'none' -d 'Prompt and output tokens of one request.'
complete -c tenantctl -n '__tenantctl_in tenant add' -l json -d 'Print JSON.'
complete -c tenantctl -n '__tenantctl_in tenant add' -l help -s h -d 'Show this message and exit.'
complete -c tenantctl -n '__tenantctl_in tenant list' -l json -d 'Print JSON.'
complete -c tenantctl -n '__tenantctl_in tenant list' -l help -s h -d 'Show this message and exit.'
complete -c tenantctl -n '__tenantctl_at 0 tenant show' -a '(tenantctl _tenants 2>/dev/null)'
complete -c tenantctl -n '__tenantctl_in tenant show' -l json -d 'Print JSON.'
complete -c tenantctl -n '__tenantctl_in tenant show' -l help -s h -d 'Show this message and exit.'
complete -c tenantctl -n '__tenantctl_at 0 tenant set' -a '(tenantctl _tenants 2>/dev/null)'
complete -c tenantctl -n '__tenantctl_in tenant set' -l weight -x -d 'Its share of the engine, next to the others\'.'
complete -c tenantctl -n '__tenantctl_in tenant set' -l priority -x -a 'high standard low' -d 'high counts eightfold, low an eighth.'
complete -c tenantctl -n '__tenantctl_in tenant set' -l uid -x -a 'none' -d 'A Unix user who acts as it; may be repeated.'
complete -c tenantctl -n '__tenantctl_in tenant set' -l max-concurrent -x -a 'none' -d 'Requests that run at the same time.'
complete -c tenantctl -n '__tenantctl_in tenant set' -l max-queued -x -a 'none' -d 'Requests that wait; more are refused.'
complete -c tenantctl -n '__tenantctl_in tenant set' -l max-tokens-per-request -x -a 'none' -d 'Output tokens of one request.'
complete -c tenantctl -n '__tenantctl_in tenant set' -l max-context-tokens -x -a 'none' -d 'Prompt and output tokens of one request.'
complete -c tenantctl -n '__tenantctl_in tenant set' -l json -d 'Print JSON.'
complete -c tenantctl -n '__tenantctl_in tenant set' -l help -s h -d 'Show this message and exit.'
complete -c tenantctl -n '__tenantctl_at 0 tenant suspend' -a '(tenantctl _tenants 2>/dev/null)'
complete -c tenantctl -n '__tenantctl_in tenant suspend' -l json -d 'Print JSON.'
complete -c tenantctl -n '__tenantctl_in tenant suspend' -l help -s h -d 'Show this message and exit.'
complete -c tenantctl -n '__tenantctl_at 0 tenant resume' -a '(tenantctl _tenants 2>/dev/null)'
complete -c tenantctl -n '__tenantctl_in tenant resume' -l json -d 'Print JSON.'
complete -c tenantctl -n '__tenantctl_in tenant resume' -l help -s h -d 'Show this message and exit.'
complete -c tenantctl -n '__tenantctl_at 0 tenant remove' -a '(tenantctl _tenants 2>/dev/null)'
complete -c tenantctl -n '__tenantctl_in tenant remove' -l yes -d 'Do not ask.'
complete -c tenantctl -n '__tenantctl_in tenant remove' -l json -d 'Print JSON.'
complete -c tenantctl -n '__tenantctl_in tenant remove' -l help -s h -d 'Show this message and exit.'
complete -c tenantctl -n '__tenantctl_at 0 key' -a create -d 'Make another key and print it, this once'
complete -c tenantctl -n '__tenantctl_at 0 key' -a list -d 'List a tenant\'s keys: how they begin, never the whole'
complete -c tenantctl -n '__tenantctl_at 0 key' -a revoke -d 'Revoke a key, from its next request on'
complete -c tenantctl -n '__tenantctl_in key' -l help -s h -d 'Show this message and exit.'
complete -c tenantctl -n '__tenantctl_at 0 key create' -a '(tenantctl _tenants 2>/dev/null)'
complete -c tenantctl -n '__tenantctl_in key create' -l label -x -d 'What it is for.'
complete -c tenantctl -n '__tenantctl_in key create' -l json -d 'Print JSON.'
complete -c tenantctl -n '__tenantctl_in key create' -l help -s h -d 'Show this message and exit.'
complete -c tenantctl -n '__tenantctl_at 0 key list' -a '(tenantctl _tenants 2>/dev/null)'
complete -c tenantctl -n '__tenantctl_in key list' -l json -d 'Print JSON.'
complete -c tenantctl -n '__tenantctl_in key list' -l help -s h -d 'Show this message and exit.'
complete -c tenantctl -n '__tenantctl_in key revoke' -l json -d 'Print JSON.'
complete -c tenantctl -n '__tenantctl_in key revoke' -l help -s h -d 'Show this message and exit.'
complete -c tenantctl -n '__tenantctl_in run' -l tenant -x -a '(tenantctl _tenants 2>/dev/null)' -d 'For whom. Needed by administrators, and by users and keys of several tenants.'
complete -c tenantctl -n '__tenantctl_in run' -l chat -d 'As a user\'s message, through the chat template.'
complete -c tenantctl -n '__tenantctl_in run' -l system -x -d 'A system message; implies --chat.'
complete -c tenantctl -n '__tenantctl_in run' -l max-tokens -x -d 'Output of so many tokens at most.'
complete -c tenantctl -n '__tenantctl_in run' -l json -d 'Print JSON.'
complete -c tenantctl -n '__tenantctl_in run' -l timing -d 'Say on standard error how long it took.'
complete -c tenantctl -n '__tenantctl_in run' -l temperature -x -d '0 takes the likeliest token.'
complete -c tenantctl -n '__tenantctl_in run' -l top-k -x -d 'Only the N likeliest.'
complete -c tenantctl -n '__tenantctl_in run' -l top-p -x -d 'Only the likeliest that add up to this.'
complete -c tenantctl -n '__tenantctl_in run' -l min-p -x -d 'Only those at least so likely, next to the likeliest.'
complete -c tenantctl -n '__tenantctl_in run' -l typical-p -x -d 'Locally typical sampling.'
complete -c tenantctl -n '__tenantctl_in run' -l repeat-penalty -x -d 'Over 1: less repetition.'
complete -c tenantctl -n '__tenantctl_in run' -l presence-penalty -x -d 'Against tokens that came at all.'
complete -c tenantctl -n '__tenantctl_in run' -l frequency-penalty -x -d 'Against tokens, as often as they came.'
complete -c tenantctl -n '__tenantctl_in run' -l seed -x -d 'For the same answer again.'
complete -c tenantctl -n '__tenantctl_in run' -l stop -x -d 'End before this text; may be repeated.'
complete -c tenantctl -n '__tenantctl_in run' -l ignore-eos -d 'Go on until --max-tokens.'
complete -c tenantctl -n '__tenantctl_in run' -l grammar -r -F -d 'Only text of this GBNF grammar.'
complete -c tenantctl -n '__tenantctl_in run' -l schema -r -F -d 'Only JSON of this schema.'
complete -c tenantctl -n '__tenantctl_in run' -l help -s h -d 'Show this message and exit.'
complete -c tenantctl -n '__tenantctl_in requests' -l tenant -x -a '(tenantctl _tenants 2>/dev/null)' -d 'Only this tenant.'
complete -c tenantctl -n '__tenantctl_in requests' -l limit -x -d 'At most so many.'
complete -c tenantctl -n '__tenantctl_in requests' -l json -d 'Print JSON.'
complete -c tenantctl -n '__tenantctl_in requests' -l help -s h -d 'Show this message and exit.'
complete -c tenantctl -n '__tenantctl_in cancel' -l json -d 'Print JSON.'
complete -c tenantctl -n '__tenantctl_in cancel' -l help -s h -d 'Show this message and exit.'
complete -c tenantctl -n '__tenantctl_in usage' -l month -x -a 'this last' -d 'A month, as in 2026-11.'
complete -c tenantctl -n '__tenantctl_in usage' -l tenant -x -a '(tenantctl _tenants 2>/dev/null)' -d 'Only this tenant.'
complete -c tenantctl -n '__tenantctl_in usage' -l json -d 'Print JSON.'
complete -c tenantctl -n '__tenantctl_in usage' -l help -s h -d 'Show this message and exit.'
complete -c tenantctl -n '__tenantctl_in invoice' -l month -x -a 'this last' -d 'A month, as in 2026-11.'
complete -c tenantctl -n '__tenantctl_in invoice' -l tenant -x -a '(tenantctl _tenants 2>/dev/null)' -d 'Only this tenant.'
complete -c tenantctl -n '__tenantctl_in invoice' -l json -d 'Print JSON.'
complete -c tenantctl -n '__tenantctl_in invoice' -l csv -d 'Print CSV: a row for each line.'
complete -c tenantctl -n '__tenantctl_in invoice' -l help -s h -d 'Show this message and exit.'
complete -c tenantctl -n '__tenantctl_at 0 completion' -a 'bash zsh fish'
complete -c tenantctl -n '__tenantctl_in completion' -l help -s h -d 'Show this message and exit.'
