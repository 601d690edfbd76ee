#include "hsattn/baselines/linformer_reference.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "hsattn/baselines/reference_rows.h"

namespace hsattn::reference {
namespace {

// What a query attends: a row that a piece is projected to, or one token.
struct Seen {
  Range tokens;
  Index row = -1;  // of the projection; -1: the token itself

  double share(const Rows<const double>& projection, Index t) const { return row < 0 ? 1 : projection.row(row)[t]; }
};

std::vector<Seen> seen_by(const LinformerShape& shape, const LinformerShape::Context& context, Index query) {
  std::vector<Seen> all;
  for (Index number = 0; number < context.pieces; ++number) {
    for (Index r = 0; r < shape.rank; ++r) all.push_back({shape.piece(number), r});
  }
  if (!shape.causal) return all;
  for (Index t = context.own.begin; t <= shape.position(query); ++t) all.push_back({{t, t + 1}});
  return all;
}

std::vector<double> projected(const Seen& seen, const Rows<const double>& x, const Rows<const double>& projection) {
  std::vector<double> sum(static_cast<std::size_t>(x.dim));
  for (Index t = seen.tokens.begin; t < seen.tokens.end; ++t)
    add_scaled(sum.data(), seen.share(projection, t), x.row(t), x.dim);
  return sum;
}

// Adds the gradient of projected() to those of the rows and of the projection.
void add_projected(const Seen& seen, const std::vector<double>& gradient, const Rows<const double>& x,
                   const Rows<const double>& projection, const Rows<double>& dx, const Rows<double>& dprojection) {
  for (Index t = seen.tokens.begin; t < seen.tokens.end; ++t) {
    add_scaled(dx.row(t), seen.share(projection, t), gradient.data(), x.dim);
    if (seen.row >= 0) dprojection.row(seen.row)[t] += dot(gradient.data(), x.row(t), x.dim);
  }
}

// One query: its keys and values, and the softmax over them.
struct Row {
  std::vector<Seen> seen;
  std::vector<std::vector<double>> keys, values;
  std::vector<double> weight;
  double lse = 0;
};

Row attend(const LinformerHead& h, const LinformerShape::Context& context, Index query) {
  Row row;
  row.seen = seen_by(h.shape, context, query);
  double largest = -std::numeric_limits<double>::infinity(), sum = 0;
  for (const Seen& seen : row.seen) {
    row.keys.push_back(projected(seen, h.k, h.project_keys));
    row.values.push_back(projected(seen, h.v, h.project_values));
    row.weight.push_back(h.scale * dot(h.q.row(query), row.keys.back().data(), h.k.dim));
    largest = std::fmax(largest, row.weight.back());
  }
  for (double& weight : row.weight) sum += weight = std::exp(weight - largest);
  for (double& weight : row.weight) weight /= sum;
  row.lse = largest + std::log(sum);
  return row;
}

template <class Body>
void for_each_query(const LinformerShape& shape, const Body& body) {
  for (Index number = 0; number < shape.contexts(); ++number) {
    const LinformerShape::Context context = shape.context(number);
    for (Index query = context.queries.begin; query < context.queries.end; ++query) body(context, query);
  }
}

}  // namespace

void linformer_forward(const LinformerHead& h, const Rows<double>& o, double* lse) {
  for_each_query(h.shape, [&](const LinformerShape::Context& context, Index query) {
    const Row row = attend(h, context, query);
    std::fill_n(o.row(query), o.dim, 0.0);
    for (std::size_t j = 0; j < row.seen.size(); ++j)
      add_scaled(o.row(query), row.weight[j], row.values[j].data(), o.dim);
    if (lse != nullptr) lse[query] = row.lse;
  });
}

void linformer_backward(const LinformerHead& h, const Rows<const double>& dout, const LinformerHeadGradients& grads) {
  for_each_query(h.shape, [&](const LinformerShape::Context& context, Index query) {
    const Row row = attend(h, context, query);
    const double* gradient = dout.row(query);
    double mean = 0;  // dout . o
    for (std::size_t j = 0; j < row.seen.size(); ++j)
      mean += row.weight[j] * dot(gradient, row.values[j].data(), dout.dim);
    std::fill_n(grads.dq.row(query), dout.dim, 0.0);
    for (std::size_t j = 0; j < row.seen.size(); ++j) {
      const double dscore = row.weight[j] * (dot(gradient, row.values[j].data(), dout.dim) - mean) * h.scale;
      std::vector<double> dkey(static_cast<std::size_t>(dout.dim)), dvalue(dkey);
      add_scaled(grads.dq.row(query), dscore, row.keys[j].data(), dout.dim);
      add_scaled(dkey.data(), dscore, h.q.row(query), dout.dim);
      add_scaled(dvalue.data(), row.weight[j], gradient, dout.dim);
      add_projected(row.seen[j], dkey, h.k, h.project_keys, grads.dk, grads.dproject_keys);
      add_projected(row.seen[j], dvalue, h.v, h.project_values, grads.dv, grads.dproject_values);
    }
  });
}

}  // namespace hsattn::reference
