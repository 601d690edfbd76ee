#include "support/linformer.h"

#include <algorithm>
#include <cmath>

#include "support/plain.h"

namespace hsattn::testing {
namespace {

// One key/value head: the rows that its pieces are projected to, and gradients of all.
class PlainHead {
 public:
  PlainHead(const LinformerProblem& problem, const Tensors<float>& in, const Tensor<float>& projections, Index batch,
            Index head)
      : problem_(problem), in_(in), projections_(projections), batch_(batch), head_(head) {
    for (const auto& [side, x] : {std::pair{&keys_, &in.k}, {&values_, &in.v}}) {
      side->rows = side->gradients = Tensor<float>(1, 1, pieces() * problem.rank, x->dim);
      std::fill(side->gradients.data.begin(), side->gradients.data.end(), 0.0F);
      side->rows.for_each([&](float& y, Index, Index, Index row, Index c) { y = projected(*x, side->of, row, c); });
    }
  }

  // Adds one query's part.
  void attend(Index query_head, Index query, LinformerSolution<float>& out) {
    const Problem& p = problem_.shape;
    const Index position = query + p.keys - p.queries, own = own_begin(position), end = own_end(position);
    float* lse = &out.lse[(batch_ * p.heads + query_head) * p.queries + query];
    *lse = -std::numeric_limits<float>::infinity();
    if (end <= 0 && p.options.causal) return;
    const Index first = pieces_before(position) * problem_.rank;
    AttendedRows rows;
    for (Index r = 0; r < first; ++r) rows.keys.push_back(keys_.rows.row(0, 0, r));
    for (Index r = 0; r < first; ++r) rows.values.push_back(values_.rows.row(0, 0, r));
    for (Index t = own; t < end; ++t) rows.keys.push_back(in_.k.row(batch_, head_, t));
    for (Index t = own; t < end; ++t) rows.values.push_back(in_.v.row(batch_, head_, t));
    rows.bias.resize(rows.keys.size());
    const float *q = in_.q.row(batch_, query_head, query), *dout = in_.dout.row(batch_, query_head, query);
    const RowGradients gradients =
        plain_row(rows, q, dout, p.dim, static_cast<float>(p.scale_used()), out.o.row(batch_, query_head, query), lse,
                  out.dq.row(batch_, query_head, query));
    for (Index j = 0; j < std::ssize(rows.keys); ++j) {
      const bool row = j < first;
      plain_add(row ? keys_.gradients.row(0, 0, j) : out.dk.row(batch_, head_, own + j - first), gradients.of_key[j], q,
                p.dim);
      plain_add(row ? values_.gradients.row(0, 0, j) : out.dv.row(batch_, head_, own + j - first),
                gradients.of_value[j], dout, p.dim);
    }
  }

  // From gradients of projected rows to those of tokens and projections.
  void finish(LinformerSolution<float>& out) {
    spread(keys_, in_.k, out.dk, out.dprojections);
    spread(values_, in_.v, out.dv, out.dprojections);
  }

 private:
  struct Side {
    Index of = 0;  // which projection
    Tensor<float> rows, gradients;
  };

  bool causal() const { return problem_.shape.options.causal; }
  Index pieces() const {
    const Index keys = problem_.shape.keys;
    return causal() ? std::max<Index>(0, keys - 1) / problem_.segment : keys > 0 ? 1 : 0;
  }
  Index pieces_before(Index position) const { return causal() ? position / problem_.segment : pieces(); }
  Index own_begin(Index position) const { return causal() ? position / problem_.segment * problem_.segment : 0; }
  Index own_end(Index position) const { return causal() ? position + 1 : 0; }
  Range piece(Index row) const {
    const Index number = row / problem_.rank;
    return causal() ? Range{number * problem_.segment, (number + 1) * problem_.segment} : Range{0, problem_.shape.keys};
  }

  float projected(const Tensor<float>& x, Index side, Index row, Index c) const {
    float sum = 0;
    for (Index t = piece(row).begin; t < piece(row).end; ++t) {
      sum += projections_.row(0, side, row % problem_.rank)[t] * x.row(batch_, head_, t)[c];
    }
    return as_stored(sum);
  }

  void spread(Side& side, const Tensor<float>& x, Tensor<float>& dx, Tensor<float>& dprojections) const {
    side.gradients.for_each([](float& y, Index, Index, Index, Index) { y = as_stored(y); });
    for (Index row = 0; row < side.rows.tokens; ++row) {
      const Index r = row % problem_.rank;
      const float* gradient = side.gradients.row(0, 0, row);
      for (Index t = piece(row).begin; t < piece(row).end; ++t) {
        plain_add(dx.row(batch_, head_, t), projections_.row(0, side.of, r)[t], gradient, x.dim);
        dprojections.row(0, side.of, r)[t] += plain_dot(gradient, x.row(batch_, head_, t), x.dim);
      }
    }
  }

  const LinformerProblem& problem_;
  const Tensors<float>& in_;
  const Tensor<float>& projections_;
  Index batch_, head_;
  Side keys_{0, {}, {}}, values_{1, {}, {}};
};

template <class T>
LinformerSolution<T> solve_as(const LinformerProblem& problem, const Tensors<T>& in,
                              const Tensor<LseOf<T>>& projections, Executor& executor) {
  const Problem& p = problem.shape;
  const LinformerOptions options = linformer_options(problem, projections);
  LinformerSolution<T> out;
  out.o = out.dq = Tensor<T>(p.batch, p.heads, p.queries, p.dim, p.layout);
  out.dk = out.dv = Tensor<T>(p.batch, p.kv_heads, p.keys, p.dim, p.layout);
  out.lse.assign(static_cast<std::size_t>(p.batch * p.heads * p.queries), std::numeric_limits<float>::quiet_NaN());
  out.dprojections = Tensor<LseOf<T>>(1, 2, problem.rank, problem.columns());
  const AttentionInputs inputs = in.inputs(p);
  linformer_forward(inputs, options, {out.o.view(), out.lse.data()}, executor);
  linformer_backward(inputs, options, {in.dout.view(), as_const(out.o.view()), out.lse.data()},
                     {out.dq.view(), out.dk.view(), out.dv.view()},
                     {out.dprojections.row(0, 0, 0), out.dprojections.row(0, 1, 0)}, executor);
  for (const Tensor<T>* x : {&out.o, &out.dq, &out.dk, &out.dv})
    check(padding_is_untouched(*x), "something was written between the rows of an output");
  return out;
}

}  // namespace

LinformerProblem linformer_problem(const char* name, Index heads, Index kv_heads, Index queries, Index keys, Index dim,
                                   bool causal, Index rank, Index segment) {
  LinformerProblem p;
  p.shape = {.name = name, .heads = heads, .kv_heads = kv_heads, .queries = queries, .keys = keys, .dim = dim};
  p.shape.options.causal = causal;
  p.rank = rank, p.segment = segment;
  return p;
}

std::string describe(const LinformerProblem& problem) {
  const Problem& p = problem.shape;
  return concat(p.name, ": ", p.options.causal ? "causal" : "bidirectional", ", batch ", p.batch, ", heads ", p.heads,
                "/", p.kv_heads, ", queries ", p.queries, ", keys ", p.keys, ", dim ", p.dim, ", layout ",
                static_cast<int>(p.layout), ", rank ", problem.rank, ", segment ", problem.segment, ", longest ",
                problem.columns());
}

template <>
LinformerSolution<double> solve_linformer(const LinformerProblem& problem, const Tensors<double>& in,
                                          const Tensor<double>& projections, Executor& executor) {
  return solve_as(problem, in, projections, executor);
}

template <>
LinformerSolution<float> solve_linformer(const LinformerProblem& problem, const Tensors<float>& in,
                                         const Tensor<float>& projections, Executor& executor) {
  LinformerSolution<float> out;
  const Layout layout = problem.shape.layout;
  with_element_type(stored_type(), [&](auto element) {
    using T = decltype(element);
    if constexpr (!std::is_same_v<T, double>) {
      const auto stored = [&](const Tensor<float>& x) { return converted<T>(x, layout); };
      const auto found =
          solve_as<T>(problem, {stored(in.q), stored(in.k), stored(in.v), stored(in.dout)}, projections, executor);
      const auto floats = [&](const Tensor<T>& x) { return converted<float>(x, layout); };
      out.o = floats(found.o), out.dq = floats(found.dq), out.dk = floats(found.dk), out.dv = floats(found.dv);
      out.lse = found.lse, out.dprojections = found.dprojections;
    }
  });
  return out;
}

template <class T>
LinformerSolution<T> solve_linformer(const LinformerProblem& problem, const Tensors<T>& in, Executor& executor) {
  return solve_linformer<T>(problem, in, linformer_projections<LseOf<T>>(problem), executor);
}
template LinformerSolution<float> solve_linformer(const LinformerProblem&, const Tensors<float>&, Executor&);
template LinformerSolution<double> solve_linformer(const LinformerProblem&, const Tensors<double>&, Executor&);

LinformerSolution<float> plain_linformer(const LinformerProblem& problem, const Tensors<float>& in) {
  const Problem& p = problem.shape;
  const Tensor<float> projections = linformer_projections<float>(problem);
  LinformerSolution<float> out;
  out.o = out.dq = Tensor<float>(p.batch, p.heads, p.queries, p.dim);
  out.dk = out.dv = Tensor<float>(p.batch, p.kv_heads, p.keys, p.dim);
  out.dprojections = Tensor<float>(1, 2, problem.rank, problem.columns());
  for (Tensor<float>* x : {&out.o, &out.dq, &out.dk, &out.dv, &out.dprojections})
    std::fill(x->data.begin(), x->data.end(), 0.0F);
  out.lse.resize(static_cast<std::size_t>(p.batch * p.heads * p.queries));
  for (Index b = 0; b < p.batch; ++b) {
    for (Index kv = 0; kv < p.kv_heads; ++kv) {
      PlainHead head(problem, in, projections, b, kv);
      for (Index h = kv * p.group(); h < (kv + 1) * p.group(); ++h) {
        for (Index i = 0; i < p.queries; ++i) head.attend(h, i, out);
      }
      head.finish(out);
    }
  }
  for (Tensor<float>* x : {&out.dq, &out.dk, &out.dv})
    x->for_each([](float& y, Index, Index, Index, Index) { y = as_stored(y); });
  return out;
}

}  // namespace hsattn::testing
