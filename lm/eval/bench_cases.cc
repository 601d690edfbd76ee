#include "lm/eval/bench_cases.h"

#include <algorithm>

#include "hsattn/base/error.h"
#include "lm/options/json_options.h"
#include "lm/options/lists.h"

namespace hsattn::lm {
namespace {

constexpr Index kQuickLength = 8192;
constexpr const char* kDecode = "decode";  // rows of one query on a cache
constexpr const char* kGrowth = "growth";  // its rows take many minutes: only where they are asked for

// Rows of the table that differ in length alone; their names are "group rules length pass", or "full length pass".
struct Series {
  const char* group;
  const char* rules;
  std::vector<Index> lengths;
  bool backward = false, bf16 = false;
  Index heads = 4, threads = 1, kv_heads = 4;
};

const std::vector<Series>& table() {
  constexpr bool kForward = false, kBoth = true, kFloat32 = false, kBf16 = true;
  const std::vector<Index> brief = {1, 4, 16, 64, 128, 256, 512, 1024}, usual = {2048, 8192, 32768, 131072};
  const std::vector<Index> cached = {4096, 16384, 65536};
  const std::vector<Index> doubled = {32768, 65536, 131072, 262144, 524288};
  static const std::vector<Series> all = {
      {"full", "full", {2048, 8192}, kForward},
      {"full", "full", {8192}, kBoth},
      {"full", "full", {8192}, kForward, kBf16},
      {"full", "full", {8192}, kBoth, kBf16},
      {"hsa", "any_model", usual, kForward},
      {"hsa", "training", {8192, 32768}, kForward},
      {"hsa", "training", {8192}, kBoth},
      {"hsa", "training", {8192}, kBoth, kBf16},
      {"hsa", "paper", usual, kForward},
      {"hsa", "paper", {8192}, kBoth},
      {"hsa", "paper", {8192}, kBoth, kBf16},
      {"hsa", "any_model", {8192}, kForward, kFloat32, 12},
      {"hsa", "any_model", {8192}, kForward, kBf16, 12},
      {kDecode, "full", cached, kForward, kFloat32, 9, 1, 3},
      {kDecode, "any_model", cached, kForward, kFloat32, 9, 1, 3},
      {kDecode, "full", cached, kForward, kBf16, 9, 1, 3},
      {kDecode, "any_model", cached, kForward, kBf16, 9, 1, 3},
      {"linear", "linear", {8192}, kForward},
      {"linear", "linear", {8192}, kBoth},
      {"performer", "performer", {8192}, kForward},
      {"performer", "performer", {8192}, kBoth},
      {"short", "any_model", brief, kForward},
      {"short", "any_model", brief, kBoth},
      {"threads", "full", {8192}, kForward, kFloat32, 4, 2},
      {"threads", "paper", {8192}, kForward, kFloat32, 4, 2},
      {"threads", "any_model", {8192}, kForward, kFloat32, 4, 2},
      {kGrowth, "paper", doubled, kForward},
      {kGrowth, "any_model", doubled, kForward},
      {"memory", "paper", {131072}, kBoth},
  };
  return all;
}

AttentionOptions attention_of(const std::string& rules) {
  AttentionOptions attention;
  const std::vector<std::string> presets = preset_names();
  const bool budgets = std::find(presets.begin(), presets.end(), rules) != presets.end();
  attention.attention = budgets ? "hsa" : rules;
  attention.preset = budgets ? rules : "any_model";
  attention.apply_preset();
  return attention;
}

// What a row's name ends with: length, pass, and what few rows have.
std::string suffix(const BenchCase& c) {
  std::string text = concat(" ", c.length, c.decode ? "" : c.backward ? " forward+backward" : " forward");
  if (c.bf16) text += " bfloat16";
  if (c.heads != c.kv_heads) text += concat(" ", c.heads, "/", c.kv_heads, " heads");
  return text;
}

BenchCase case_of(const Series& series, Index length, Index seed) {
  BenchCase c;
  c.attention = attention_of(series.rules);
  c.length = length;
  c.heads = series.heads;
  c.kv_heads = series.kv_heads;
  c.threads = series.threads;
  c.backward = series.backward;
  c.bf16 = series.bf16;
  const std::string group = series.group;
  c.decode = group == kDecode;
  c.one_thread = series.threads > 1;
  c.sdpa = group != kGrowth && group != "memory";
  c.seed = seed;
  c.name = (group == series.rules ? group : group + " " + series.rules) + suffix(c);
  return c;
}

std::vector<BenchCase> table_cases(const BenchOptions& o) {
  std::vector<BenchCase> cases;
  for (const Series& series : table()) {
    for (const Index length : series.lengths) {
      if (o.quick && length > kQuickLength) continue;
      if (series.group == std::string_view(kGrowth) && o.only.find(kGrowth) == std::string::npos) continue;
      BenchCase c = case_of(series, length, o.seed);
      if (c.name.find(o.only) != std::string::npos) cases.push_back(std::move(c));
    }
  }
  check(!cases.empty(), "only is ", o.only, ", which is in the name of no row", o.quick ? " that is quick" : "",
        "; full, hsa, decode, linear, performer, short, threads, memory, growth, or more of a name, such as \"hsa "
        "training 8192\", are right");
  return cases;
}

// A case for each length and pass.
std::vector<BenchCase> described_cases(const BenchOptions& o) {
  std::vector<BenchCase> cases;
  BenchCase c;
  c.attention = o.attention;
  c.batch = o.batch;
  c.heads = o.heads;
  c.kv_heads = o.kv_heads > 0 ? o.kv_heads : o.heads;
  c.dim = o.dim;
  c.threads = o.threads;
  c.bf16 = o.dtype == "bfloat16";
  c.queries = o.queries;
  c.seed = o.seed;
  const bool hsa = o.attention.attention == "hsa";
  for (const Index length : parse_lengths(o.lengths)) {
    for (const bool backward : {false, true}) {
      if (backward && !o.backward) continue;
      c.length = length;
      c.backward = backward;
      c.name = o.attention.attention + (hsa ? " " + o.attention.preset : "") + suffix(c);
      cases.push_back(c);
    }
  }
  return cases;
}

// Options that describe cases would be ignored beside the table.
void check_nothing_is_described(const BenchOptions& o) {
  BenchOptions plain, given = o;
  plain.only = o.only;
  plain.quick = o.quick;
  plain.repeats = o.repeats;
  plain.seed = o.seed;
  const auto expected = to_json(plain), found = to_json(given);
  for (const auto& [name, value] : found.items()) {
    check(value == expected[name], name, " is ", value.dump(), ", but the rows of the table have their own; name ",
          "lengths, too, for rows of your own");
  }
}

}  // namespace

void check_bench_options(const BenchOptions& o) {
  check(o.repeats >= 1, "repeats is ", o.repeats, "; at least 1 is right");
  if (o.lengths.empty()) return check_nothing_is_described(o);
  parse_lengths(o.lengths);
  check(o.only.empty() && !o.quick, "only and quick choose rows of the table; lengths asks for others");
  check(o.dtype == "float32" || o.dtype == "bfloat16", "dtype is ", o.dtype, "; float32 or bfloat16 are right");
  check(o.batch >= 1, "batch is ", o.batch, "; at least 1 is right");
  check(o.heads >= 1 && o.kv_heads >= 0 && (o.kv_heads == 0 || o.heads % o.kv_heads == 0), "heads is ", o.heads,
        ", kv_heads is ", o.kv_heads, "; a divisor of heads, or 0, is right");
  check(o.dim >= 8 && o.dim <= 256, "dim is ", o.dim, "; 8 to 256 is right");
  check(o.threads >= 0 && o.threads <= 4096, "threads is ", o.threads, "; 0 to 4096 is right");
  check(o.queries == "correlated" || o.queries == "random" || o.queries.ends_with("q.npy"), "queries is ", o.queries,
        "; correlated, random or a file NAME_q.npy are right");
  const bool linear = o.attention.baseline() && o.attention.attention != "linformer";
  check(o.attention.ours() || linear, "pattern is ", o.attention.attention, "; one of ", patterns_for_help(),
        " | linear | performer is right");
  check_attention_options(o.attention);
  check(o.attention.hsa.tail == 0, "tail is ", o.attention.hsa.tail,
        ", which is not in the lists by which answers are checked before they are timed; 0 is right");
  check(!o.attention.has_pooler(), "pooling is ", o.attention.pooling,
        ", whose parameters belong to a model and are trained with it; mean or max are right here, and `hsattn "
        "bench-step` times steps with it");
}

std::vector<BenchCase> bench_cases(const BenchOptions& options) {
  return options.lengths.empty() ? table_cases(options) : described_cases(options);
}

}  // namespace hsattn::lm
