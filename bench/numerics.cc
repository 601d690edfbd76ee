// How exact the kernels are: a Markdown table of the largest errors against the reference in double; in brackets,
// divided by the error of plain attention in the same type on the same numbers (docs/numerics.md).
//
//   HSATTN_ISA=avx512 HSATTN_TEST_TYPE=bfloat16 numerics
//
// Both variables are read once in a process, so a run prints the rows of one kernel and one type.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <exception>
#include <vector>

#include "hsattn/hsattn.h"
#include "support/plain.h"
#include "support/problem.h"

namespace {

using namespace hsattn;
using testing::max_error;
using testing::Problem;
using testing::Solution;
using testing::Tensors;

Problem problem_of(Pattern pattern, Index dim) {
  Problem p{.name = "numerics", .heads = 2, .kv_heads = 1, .queries = 1024, .keys = 1024, .dim = dim};
  p.options.pattern = pattern;
  p.options.hsa = {.window = 64,
                   .top_k = 128,
                   .candidates = 256,
                   .block = 8,
                   .sinks = 8,
                   .top_nodes = 16,
                   .beam = 8,
                   .dense_until = 0,
                   .far_field = true};
  return p;
}

double lse_error(const std::vector<float>& found, const std::vector<double>& exact) {
  double worst = 0;
  for (std::size_t i = 0; i < exact.size(); ++i) worst = std::max(worst, std::abs(found[i] - exact[i]));
  return worst;
}

void print_cell(double error, double plain) { std::printf(" %.1e (%.2g) |", error, error / plain); }

void print_row(const Problem& p) {
  const Tensors<float> in = testing::random_tensors(p, 1);
  const Plan plan = plan_of(p, in);
  const Solution<float> found = solve(p, in, plan), plain = plain_solution(p, in, plan);
  const Solution<double> exact = solve(p, testing::in_double(in), plan);
  AttentionInputs inputs = in.inputs(p);
  inputs.q.dtype = inputs.k.dtype = inputs.v.dtype = testing::stored_type();
  std::printf("| %s | %s | %s | %d |", name_of(testing::stored_type()), chosen_kernel(inputs),
              name_of(p.options.pattern), static_cast<int>(p.dim));
  print_cell(max_error(found.o, exact.o), max_error(plain.o, exact.o));
  print_cell(lse_error(found.lse, exact.lse), lse_error(plain.lse, exact.lse));
  print_cell(max_error(found.dq, exact.dq), max_error(plain.dq, exact.dq));
  print_cell(max_error(found.dk, exact.dk), max_error(plain.dk, exact.dk));
  print_cell(max_error(found.dv, exact.dv), max_error(plain.dv, exact.dv));
  std::printf("\n");
}

}  // namespace

int main() {
  try {
    std::printf("| type | kernel | pattern | dim | o | lse | dq | dk | dv |\n");
    std::printf("| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n");
    for (const Pattern pattern : {Pattern::kFull, Pattern::kHsa}) {
      for (const Index dim : {64, 128}) print_row(problem_of(pattern, dim));
    }
  } catch (const std::exception& error) {  // a misspelled variable, a kernel that this processor lacks
    std::fprintf(stderr, "numerics: %s\n", error.what());
    return 2;
  }
}
