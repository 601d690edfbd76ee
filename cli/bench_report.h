// What `hsattn bench` prints: a table or JSON, and the comparison with an earlier run.
#pragma once

#include <map>
#include <nlohmann/json.hpp>
#include <ostream>
#include <string>
#include <vector>

#include "lm/eval/attention_bench.h"
#include "lm/eval/fma_peak.h"

namespace hsattn::cli {

/// Milliseconds of a row of an earlier run; sdpa 0 if it was not timed.
struct Before {
  double ours = 0, sdpa = 0;
};

/// By the names of rows.
using Baseline = std::map<std::string, Before>;

/// Reads what bench_json() made. Throws FileError, also if its options are not those of `options`, apart from those
/// that choose rows and repeats.
Baseline read_baseline(const std::string& path, lm::BenchOptions& options);

struct BenchReport {
  std::vector<lm::BenchRow> rows;
  lm::FmaPeak peak;
  Baseline baseline;  ///< empty: no comparison
};

nlohmann::ordered_json bench_json(lm::BenchOptions& options, const BenchReport& report);
void print_bench(const lm::BenchOptions& options, const BenchReport& report, std::ostream& out);

}  // namespace hsattn::cli
