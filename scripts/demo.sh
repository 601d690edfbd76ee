# ./run demo: two small models that differ in their attention alone, trained, evaluated and compared. Sourced by ./run.

demo_folder=runs/demo
demo_context=4096
# Chosen so that the whole demo ends within 15 minutes on two cores.
demo_model=(--layers 4 --width 192 --heads 3 --context "$demo_context" --batch 1 --learning-rate 3e-3 --warmup 20)
demo_hsa=(--preset training)
demo_held_out=data/held_out/grahame-the-wind-in-the-willows.txt.gz
demo_lengths=4096,8192,16384

demo_usage() {
  cat <<'EOF'
usage: ./run demo [--steps N] [--seed N]

Trains two models on the novels of data/, one with HSA and one with SDPA, evaluates both on a novel of another author,
times attention alone, prints one table and writes runs/demo/report.html. What an earlier demo left is replaced.

  --steps N   training steps of each model [160]
  --seed N    initial weights and order of the data, the same for both [1]
EOF
}

# Text to tokens, once; again when the texts or the program's format change.
demo_text() {
  local hash
  hash=$(stamp_of data/SHA256SUMS lm/data/token_file.h)
  fresh "$demo_folder/text.stamp" "$hash" && return 0
  rm -rf "$demo_folder/text"
  step demo-text "Prepare the text: seven novels to train on, one to evaluate on" \
    "$hsattn" prepare data/train --held-out data/held_out --out "$demo_folder/text"
  printf '%s\n' "$hash" >"$demo_folder/text.stamp"
}

# demo_train ATTENTION STEPS SEED
demo_train() {
  local attention=$1 steps=$2 seed=$3 demo_budgets=()
  if [ "$attention" = hsa ]; then demo_budgets=("${demo_hsa[@]}"); fi
  local options=(train --data "$demo_folder/text" --run "$demo_folder/$attention" --attention "$attention"
    "${demo_model[@]}" "${demo_budgets[@]}" --steps "$steps" --seed "$seed" --eval-every "$(((steps + 3) / 4))" --save-every "$steps")
  rm -rf "${demo_folder:?}/$attention"
  demo_commands+=("hsattn ${options[*]}")
  watched "demo-train-$attention" "Train with $attention: $steps steps of $demo_context tokens" "$hsattn" "${options[@]}"
}

# demo_json FILE NAME WHAT ARGUMENTS...: runs the program with --json and keeps what it prints in FILE.
demo_json() {
  local file=$1 name=$2 what=$3
  shift 3
  demo_commands+=("hsattn $*")
  step "$name" "$what" bash -c '"$0" "${@:2}" --json >"$1"' "$hsattn" "$file" "$@"
}

demo() {
  local steps=160 seed=1 attention
  while [ $# -gt 0 ]; do
    case $1 in
      -h | --help) demo_usage && return ;;
      --steps | --seed)
        [[ ${2:-} =~ ^[1-9][0-9]*$ ]] || die "demo: $1 needs a whole number from 1 on, found '${2:-}'"
        if [ "$1" = --steps ]; then steps=$2; else seed=$2; fi
        shift 2
        ;;
      *) die "demo: '$1' is not one of --steps N, --seed N" ;;
    esac
  done
  build
  hsattn=build/full/cli/hsattn demo_commands=()
  mkdir -p "$demo_folder"
  demo_text
  for attention in hsa sdpa; do
    demo_train "$attention" "$steps" "$seed" || exit $?
  done
  for attention in hsa sdpa; do
    demo_json "$demo_folder/$attention/eval.json" "demo-eval-$attention" "Evaluate $attention on the held-out novel" \
      eval --model "$demo_folder/$attention" --data "$demo_folder/text" --context "$demo_context" --windows 32
  done
  demo_json "$demo_folder/bench.json" demo-bench "Time attention alone against SDPA at $demo_lengths tokens" \
    bench --lengths "$demo_lengths" --pattern hsa "${demo_hsa[@]}"
  demo_commands+=("hsattn inspect --model $demo_folder/hsa --text $demo_held_out --out $demo_folder/attention.html")
  step demo-inspect "Draw what a head of the HSA model attends" "$hsattn" inspect --model "$demo_folder/hsa" \
    --text "$demo_held_out" --context "$demo_context" --out "$demo_folder/attention.html"
  demo_report
}

demo_report() {
  local options=(--run "HSA=$demo_folder/hsa" --run "SDPA=$demo_folder/sdpa" --bench "$demo_folder/bench.json"
    --plan "$demo_folder/attention.html"
    --plan-caption "The HSA model's last layer, head 0, on the first $demo_context bytes of the held-out novel: each row is a
position, each column a token. $demo_folder/attention.html has all heads in a table."
    --title "Two small language models, HSA and SDPA" --out "$demo_folder/report.html" --command "./run demo")
  local command
  for command in "${demo_commands[@]}"; do options+=(--command "$command"); done
  title "Results"
  python -m report "${options[@]}" | tee logs/demo-report.log
  say ""
  say "Page with curves and the drawing of a head's plan: $demo_folder/report.html"
}
