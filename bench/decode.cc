// One decode step on a cache of the shape of SmolLM2-135M's layers (9 heads, 3 key/value heads, dim 64), one thread.
//
//   decode [LENGTH] [RULES] [TYPE] [PART]
//
// LENGTH 16384 by default. RULES: full, paper, any_model, pretrained, or all. TYPE: float32, bfloat16 or float16. PART:
// all, or attend, append: that part alone for some seconds, for a profiler:
//
//   perf record ./decode 16384 any_model float32 attend && perf report --no-children
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "hsattn/hsattn.h"

namespace {

using namespace hsattn;

constexpr Index kHeads = 9, kKvHeads = 3, kDim = 64, kSteps = 64;

// Normal values; with a correlation, neighbouring tokens resemble each other and are peaked, as queries of trained
// models.
template <class T>
std::vector<T> random_rows(Index heads, Index tokens, unsigned seed, float correlation) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> row(kDim);
  std::vector<T> x;
  x.reserve(static_cast<std::size_t>(heads * tokens * kDim));
  for (Index i = 0; i < heads * tokens; ++i) {
    const float old = i % tokens == 0 ? 0 : correlation, fresh = std::sqrt(1 - old * old);
    for (float& value : row) {
      value = old * value + fresh * normal(random);
      x.push_back(static_cast<T>(correlation > 0 ? 2 * value : value));
    }
  }
  return x;
}

double median_seconds(int repeats, const std::function<void(int)>& body, const std::function<void()>& before = [] {}) {
  std::vector<double> seconds;
  for (int i = 0; i < repeats; ++i) {
    before();
    const auto start = std::chrono::steady_clock::now();
    body(i);
    seconds.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  std::nth_element(seconds.begin(), seconds.begin() + repeats / 2, seconds.end());
  return seconds[static_cast<std::size_t>(repeats / 2)];
}

template <class T>
void run(const char* name, const PlanOptions& options, Index n, DType type, const std::string& part) {
  const auto k = random_rows<T>(kKvHeads, n, 1, 0), v = random_rows<T>(kKvHeads, n, 2, 0);
  const auto q = random_rows<T>(kHeads, kSteps, 3, 0.99F);
  std::vector<T> o(static_cast<std::size_t>(kHeads * kDim)), right(o);
  const auto whole = [&](const std::vector<T>& x) {
    return contiguous_view(static_cast<const void*>(x.data()), type, 1, kKvHeads, n, kDim);
  };
  const auto query = [&](int step) {
    ConstView one = contiguous_view(static_cast<const void*>(q.data()), type, 1, kHeads, kSteps, kDim);
    one.data = q.data() + step % kSteps * kDim;
    one.tokens = 1;
    return one;
  };
  const auto output = [&](std::vector<T>& x) {
    return AttentionOutputs{contiguous_view(static_cast<void*>(x.data()), type, 1, kHeads, 1, kDim)};
  };
  KeyValueCache cache({.kv_heads = kKvHeads, .dim = kDim, .dtype = type, .plan = options});
  cache.append(whole(k), whole(v));
  const auto attend = [&](int step) { cache.attend(query(step), {}, output(o)); };
  const auto afresh = [&](int step) {
    attention_forward({query(step), whole(k), whole(v), {}}, options, output(right));
  };
  attend(0);
  afresh(0);
  if (std::memcmp(o.data(), right.data(), o.size() * sizeof(T)) != 0) {
    std::printf("%s: the cache gives something else than attention_forward; not timed\n", name);
    return;
  }
  const auto append = [&](int) {
    ConstView token_k = whole(k), token_v = whole(v);
    token_k.tokens = token_v.tokens = 1;
    cache.append(token_k, token_v);
  };
  if (part == "attend") median_seconds(5000, attend);
  if (part == "append") median_seconds(100000, append);
  if (part != "all") return;
  // As the other layers of a model do between two steps of this one.
  std::vector<float> others(std::size_t{1} << 25, 1);
  const auto evict = [&] {
    for (float& x : others) x += 1;
  };
  const double plain = 2.0 * static_cast<double>(kKvHeads * n * kDim * size_of(type));
  const double memory = static_cast<double>(cache.bytes()) / plain;
  std::printf(
      "%-10s %s n %ld  attend %.1f us, from memory %.1f us  append %.2f us  without a cache %.0f us  memory %.3f of k "
      "and v\n",
      name, name_of(type), static_cast<long>(n), 1e6 * median_seconds(300, attend),
      1e6 * median_seconds(40, attend, evict), 1e6 * median_seconds(2000, append), 1e6 * median_seconds(5, afresh),
      memory);
  std::fflush(stdout);
}

}  // namespace

int main(int count, char** arguments) {
  char* end = nullptr;
  const Index n = count > 1 ? std::strtol(arguments[1], &end, 10) : 16384;
  const std::string rules = count > 2 ? arguments[2] : "all", type = count > 3 ? arguments[3] : "float32",
                    part = count > 4 ? arguments[4] : "all";
  if (n < 1 || (end != nullptr && *end != '\0')) {
    std::fprintf(stderr, "decode: LENGTH is '%s'; it must be a whole number from 1 on\n", arguments[1]);
    return 2;
  }
  const std::pair<const char*, PlanOptions> all[] = {{"full", {Pattern::kFull, true, {}}},
                                                     {"paper", {Pattern::kHsa, true, HsaOptions::paper()}},
                                                     {"any_model", {Pattern::kHsa, true, HsaOptions::any_model()}},
                                                     {"pretrained", {Pattern::kHsa, true, HsaOptions::pretrained()}}};
  for (const auto& [name, options] : all) {
    if (rules != "all" && rules != name) continue;
    if (type == "float32") run<float>(name, options, n, DType::kFloat32, part);
    if (type == "bfloat16") run<BFloat16>(name, options, n, DType::kBFloat16, part);
    if (type == "float16") run<Float16>(name, options, n, DType::kFloat16, part);
  }
  return 0;
}
