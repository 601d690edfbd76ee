// What `hsattn bench` times: a table of cases, or cases that options describe. No torch here.
#pragma once

#include <string>
#include <vector>

#include "lm/model/config.h"

namespace hsattn::lm {

struct BenchOptions : Options {
  std::string lengths;  ///< empty: the table
  std::string only;
  bool quick = false;
  std::string dtype = "float32";
  Index batch = 1;
  Index heads = 4;
  Index kv_heads = 0;
  Index dim = 64;
  Index threads = 1;
  Index repeats = 3;
  std::string queries = "correlated";
  bool backward = true;
  Index seed = 1;
  AttentionOptions attention;

  void visit(OptionVisitor& option) override {
    option("only", only,
           "rows of the table whose name holds this: full, hsa, decode, linear, performer, short, threads, memory, "
           "\"training "
           "8192\", ...; growth: "
           "rows up to 524288 tokens that run only if asked for so");
    option("quick", quick, "the table's rows of at most 8192 tokens: one or two minutes");
    option("repeats", repeats, "timings of each, taken in turn; the median counts; fewer where a turn takes long");
    option("seed", seed, "of the tensors");
    option("lengths", lengths,
           "time these lengths, in tokens, separated by commas, instead of the table, with the options below; above "
           "32768, SDPA's time is that of the first 32768 tokens, extrapolated by n^2");
    option("pattern", attention.attention, (patterns_for_help() + " | linear | performer").c_str());
    attention.visit_budgets(option);
    option("dtype", dtype, "float32 | bfloat16");
    option("batch", batch, "sequences");
    option("heads", heads, "query heads");
    option("kv_heads", kv_heads, "key and value heads; 0: as many as heads");
    option("dim", dim, "head dimension");
    option("threads", threads, "0: all processors");
    option("queries", queries,
           "correlated (neighbours 0.99, as in real models) | random | NAME_q.npy with NAME_k, NAME_v");
    option("backward", backward, "time forward and backward, too");
  }
  void apply_preset() override { attention.apply_preset(); }
};

/// One row of the result: one pass, or decode step, of one attention at one length, causal.
struct BenchCase {
  std::string name;  ///< tells it from all other rows
  AttentionOptions attention;
  Index length = 0, batch = 1, heads = 4, kv_heads = 4, dim = 64, threads = 1;
  bool backward = false;    ///< forward and backward, else forward alone
  bool decode = false;      ///< forward of one query on a cache
  bool bf16 = false;        ///< bfloat16, else float32
  bool sdpa = true;         ///< beside SDPA; if not, this library alone
  bool one_thread = false;  ///< with one thread, too
  std::string queries = "correlated";
  Index seed = 1;
};

/// Throws InvalidArgument, naming the option.
void check_bench_options(const BenchOptions& options);

/// The rows that `options`, which are right, ask for. Throws InvalidArgument if there are none.
std::vector<BenchCase> bench_cases(const BenchOptions& options);

}  // namespace hsattn::lm
