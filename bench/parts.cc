// Where the time of the C++ library goes: search, attention with a given plan, backward, for four sets of rules.
//
//   parts [LENGTH] [RULES] [PART] [TYPE]
//
// LENGTH 8192 by default. RULES: full, paper, paper-no-far, any_model, or all. TYPE: float32 or bfloat16. PART:
// all, or search, attend, backward: that part alone, 20 times, for a profiler:
//
//   perf record ./parts 8192 any_model search && perf report --no-children
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "hsattn/hsattn.h"

namespace {

using namespace hsattn;

constexpr Index kHeads = 4, kDim = 64;

// Normal values; neighbouring queries correlate by 0.99 and are peaked, as in trained models.
template <class T>
struct Tensors {
  std::vector<T> q, k, v, o, dout, dq, dk, dv;
  std::vector<float> lse;

  explicit Tensors(Index n) : lse(static_cast<std::size_t>(kHeads * n)) {
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    std::vector<float> x(static_cast<std::size_t>(kHeads * n * kDim));
    for (std::vector<T>* tensor : {&q, &k, &v, &dout}) {
      for (float& value : x) value = normal(random);
      if (tensor == &q) correlate(x, n);
      for (const float value : x) tensor->push_back(static_cast<T>(value));
    }
    for (std::vector<T>* tensor : {&o, &dq, &dk, &dv}) tensor->resize(q.size());
  }

  static void correlate(std::vector<float>& x, Index n) {
    for (std::size_t i = 0; i < x.size(); ++i) {
      if (i / kDim % static_cast<std::size_t>(n) > 0) x[i] = 0.99F * x[i - kDim] + std::sqrt(1 - 0.9801F) * x[i];
    }
    for (float& value : x) value *= 2;
  }
};

struct Rules {
  const char* name;
  PlanOptions options;
};

std::vector<Rules> all_rules() {
  Rules without_far{"paper-no-far", {Pattern::kHsa, true, HsaOptions::paper()}};
  without_far.options.hsa.far_field = false;
  return {{"full", {Pattern::kFull, true, {}}},
          {"paper", {Pattern::kHsa, true, HsaOptions::paper()}},
          without_far,
          {"any_model", {Pattern::kHsa, true, HsaOptions::any_model()}}};
}

double best_seconds(int repeats, const std::function<void()>& body) {
  double best = 1e9;
  for (int i = 0; i < repeats; ++i) {
    const auto start = std::chrono::steady_clock::now();
    body();
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return best;
}

template <class T>
void run(const Rules& rules, Index n, const std::string& part, DType type) {
  Tensors<T> t(n);
  const auto in = [&](std::vector<T>& x) {
    return contiguous_view(static_cast<const void*>(x.data()), type, 1, kHeads, n, kDim);
  };
  const auto out = [&](std::vector<T>& x) {
    return contiguous_view(static_cast<void*>(x.data()), type, 1, kHeads, n, kDim);
  };
  const AttentionInputs inputs{in(t.q), in(t.k), in(t.v), {}};
  const Plan plan = make_plan(inputs.q, inputs.k, rules.options);
  const auto search = [&] { make_plan(inputs.q, inputs.k, rules.options); };
  const auto attend = [&] { attention_forward(inputs, plan, {out(t.o), t.lse.data()}); };
  const auto backward = [&] {
    attention_backward(inputs, plan, {in(t.dout), in(t.o), t.lse.data()}, {out(t.dq), out(t.dk), out(t.dv)});
  };
  attend();
  if (part == "search") best_seconds(20, search);
  if (part == "attend") best_seconds(20, attend);
  if (part == "backward") best_seconds(20, backward);
  if (part != "all") return;
  std::printf("%-16s %s n %ld  search %.4f s  attend %.4f s  backward %.4f s\n", rules.name, name_of(type),
              static_cast<long>(n), best_seconds(5, search), best_seconds(5, attend), best_seconds(5, backward));
  std::fflush(stdout);
}

}  // namespace

int main(int count, char** arguments) {
  char* end = nullptr;
  const Index n = count > 1 ? std::strtol(arguments[1], &end, 10) : 8192;
  const std::string rules = count > 2 ? arguments[2] : "all", part = count > 3 ? arguments[3] : "all",
                    type = count > 4 ? arguments[4] : "float32";
  if (n < 1 || (end != nullptr && *end != '\0')) {
    std::fprintf(stderr, "parts: LENGTH is '%s'; it must be a whole number from 1 on\n", arguments[1]);
    return 2;
  }
  bool found = false;
  for (const Rules& one : all_rules()) {
    if (rules != "all" && rules != one.name) continue;
    found = true;
    if (type == name_of(DType::kBFloat16)) {
      run<BFloat16>(one, n, part, DType::kBFloat16);
    } else {
      run<float>(one, n, part, DType::kFloat32);
    }
  }
  if (!found) std::fprintf(stderr, "parts: RULES is '%s'; see the head of bench/parts.cc\n", rules.c_str());
  return found ? 0 : 2;
}
