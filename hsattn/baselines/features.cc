// Random directions of performer's features.
#include <cmath>
#include <numbers>
#include <span>

#include "hsattn/base/buffer.h"
#include "hsattn/base/error.h"
#include "hsattn/baselines/linear.h"

namespace hsattn {
namespace {

// The same numbers on every machine, which std::normal_distribution does not promise.
class Normals {
 public:
  explicit Normals(std::uint64_t seed) : state_(seed) {}

  // Box and Muller, one of the pair.
  double next() {
    const double radius = std::sqrt(-2 * std::log(1 - uniform()));
    return radius * std::cos(2 * std::numbers::pi * uniform());
  }

 private:
  double uniform() { return static_cast<double>(bits() >> 11) * 0x1p-53; }  // in [0, 1)
  std::uint64_t bits() {                                                    // splitmix64
    std::uint64_t x = state_ += 0x9e3779b97f4a7c15U;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9U;
    x = (x ^ x >> 27) * 0x94d049bb133111ebU;
    return x ^ x >> 31;
  }

  std::uint64_t state_;
};

using Row = std::span<double>;

double dot(Row a, Row b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

void scale_to_length(Row row, double length) {
  const double factor = length / std::sqrt(dot(row, row));
  for (double& x : row) x *= factor;
}

}  // namespace

std::vector<float> draw_features(Index features, Index dim, std::uint64_t seed) {
  check(features >= 1 && features <= 65536, "draw_features: features is ", features, "; 1 to 65536 is right");
  check(dim >= 1 && dim <= 65536, "draw_features: dim is ", dim, "; 1 to 65536 is right");
  auto rows = allocate_vector<double>(features * dim, "draw_features");
  Normals normals(seed);
  const auto row = [&](Index i) {
    return Row(rows).subspan(static_cast<std::size_t>(i * dim), static_cast<std::size_t>(dim));
  };
  for (Index i = 0; i < features; ++i) {
    for (double& x : row(i)) x = normals.next();
    for (Index j = i / dim * dim; j < i; ++j) {  // Gram and Schmidt within the group, whose rows have length 1
      const double along = dot(row(i), row(j));
      for (Index d = 0; d < dim; ++d)
        row(i)[static_cast<std::size_t>(d)] -= along * row(j)[static_cast<std::size_t>(d)];
    }
    scale_to_length(row(i), 1);
  }
  std::vector<double> independent(static_cast<std::size_t>(dim));
  for (Index i = 0; i < features; ++i) {
    for (double& x : independent) x = normals.next();
    scale_to_length(row(i), std::sqrt(dot(independent, independent)));
  }
  return {rows.begin(), rows.end()};
}

}  // namespace hsattn
