// The paper's AdaptivePool in double. With children x_i, shares c_i = tokens_i / sum(tokens), and for each head h rows
// of the matrices:
//   A_ij = tokens_j exp(s_ij) / sum_j ...,  s_ij = (W_q x_i).(W_k x_j) / sqrt(head dim)
//   m = [sum_i c_i sum_j A_ij W_v x_j for all heads]      y = W_o m      node = factor * normal(y) + offset
#include <cmath>

#include "hsattn/kernels/reference/reference.h"
#include "hsattn/pooling/part.h"
#include "hsattn/pooling/reference.h"

namespace hsattn::reference {
namespace {

// W x, and what a gradient of it gives to x and to W; `first` is the matrix' first row among the parameters.
std::vector<double> times(const Matrix& parameters, Index first, std::span<const double> x) {
  std::vector<double> y(x.size());
  for (std::size_t o = 0; o < y.size(); ++o) y[o] = dot(parameters.row(first + static_cast<Index>(o)), x);
  return y;
}

void times_backward(const Matrix& parameters, Index first, std::span<const double> x, std::span<const double> dy,
                    std::span<double> dx, Matrix& dparameters) {
  for (std::size_t o = 0; o < dy.size(); ++o) {
    const Index row = first + static_cast<Index>(o);
    for (std::size_t c = 0; c < x.size(); ++c) {
      dx[c] += parameters.row(row)[c] * dy[o];
      dparameters.row(row)[c] += dy[o] * x[c];
    }
  }
}

// Everything on the way to a node.
struct Forward {
  Index dim, count, heads, head_dim;
  std::vector<std::vector<double>> q, k, v;  // [count][dim]
  std::vector<double> shares;                // [count]
  std::vector<double> attention;             // [heads, count, count]
  std::vector<double> joined, normal;        // [dim]: m; y without its mean, over its deviation
  double inverse_deviation = 0;

  Forward(const Matrix& parameters, const Matrix& x, const std::vector<double>& tokens);
  double& at(Index h, Index i, Index j) { return attention[static_cast<std::size_t>((h * count + i) * count + j)]; }
  double at(Index h, Index i, Index j) const { return const_cast<Forward*>(this)->at(h, i, j); }
};

Forward::Forward(const Matrix& parameters, const Matrix& x, const std::vector<double>& tokens)
    : dim(x.dim), count(x.count), heads(pooling::group_heads(dim)), head_dim(dim / heads) {
  double total = 0;
  for (const double t : tokens) total += t;
  for (Index i = 0; i < count; ++i) {
    q.push_back(times(parameters, 0, x.row(i)));
    k.push_back(times(parameters, dim, x.row(i)));
    v.push_back(times(parameters, 2 * dim, x.row(i)));
    shares.push_back(tokens[i] / total);
  }
  attention.resize(static_cast<std::size_t>(heads * count * count));
  joined.resize(static_cast<std::size_t>(dim));
  for (Index h = 0; h < heads; ++h) {
    for (Index i = 0; i < count; ++i) {
      std::vector<double> scores;
      for (Index j = 0; j < count; ++j) {
        double score = 0;
        for (Index c = h * head_dim; c < (h + 1) * head_dim; ++c) score += q[i][c] * k[j][c];
        scores.push_back(score / std::sqrt(static_cast<double>(head_dim)) + std::log(tokens[j]));
      }
      const double lse = log_sum_exp(scores);
      for (Index j = 0; j < count; ++j) {
        at(h, i, j) = std::exp(scores[j] - lse);
        for (Index c = h * head_dim; c < (h + 1) * head_dim; ++c) joined[c] += shares[i] * at(h, i, j) * v[j][c];
      }
    }
  }
  normal = times(parameters, 3 * dim, joined);
  double mean = 0, variance = 0;
  for (const double y : normal) mean += y / static_cast<double>(dim);
  for (const double y : normal) variance += (y - mean) * (y - mean) / static_cast<double>(dim);
  inverse_deviation = 1 / std::sqrt(variance + pooling::kLayerNormEpsilon);
  for (double& y : normal) y = (y - mean) * inverse_deviation;
}

}  // namespace

std::vector<double> paper_node(const Matrix& parameters, const Matrix& children, const std::vector<double>& tokens) {
  std::vector<double> node = Forward(parameters, children, tokens).normal;
  for (Index c = 0; c < children.dim; ++c) {
    node[c] = node[c] * parameters.row(4 * children.dim)[c] + parameters.row(4 * children.dim + 1)[c];
  }
  return node;
}

void paper_node_backward(const Matrix& parameters, const Matrix& children, const std::vector<double>& tokens,
                         std::span<const double> gradient, Matrix& dchildren, Matrix& dparameters) {
  const Forward f(parameters, children, tokens);
  const Index d = f.dim;
  const auto size = static_cast<std::size_t>(d);

  // dy = (g - mean(g) - normal mean(g normal)) / deviation, with g = gradient * factor
  std::vector<double> dy(size), djoined(size);
  double mean = 0, slope = 0;
  for (Index c = 0; c < d; ++c) {
    dy[c] = gradient[c] * parameters.row(4 * d)[c];
    mean += dy[c] / static_cast<double>(d);
    slope += dy[c] * f.normal[c] / static_cast<double>(d);
    dparameters.row(4 * d)[c] += gradient[c] * f.normal[c];
    dparameters.row(4 * d + 1)[c] += gradient[c];
  }
  for (Index c = 0; c < d; ++c) dy[c] = (dy[c] - mean - f.normal[c] * slope) * f.inverse_deviation;
  times_backward(parameters, 3 * d, f.joined, dy, djoined, dparameters);

  std::vector<std::vector<double>> dq(f.q.size(), std::vector<double>(size)), dk = dq, dv = dq;
  for (Index h = 0; h < f.heads; ++h) {
    const Index begin = h * f.head_dim, end = begin + f.head_dim;
    for (Index i = 0; i < f.count; ++i) {
      std::vector<double> dp;  // of A_ij
      double dp_mean = 0;
      for (Index j = 0; j < f.count; ++j) {
        dp.push_back(0);
        for (Index c = begin; c < end; ++c) {
          dp[j] += f.shares[i] * djoined[c] * f.v[j][c];
          dv[j][c] += f.shares[i] * f.at(h, i, j) * djoined[c];
        }
        dp_mean += f.at(h, i, j) * dp[j];
      }
      for (Index j = 0; j < f.count; ++j) {
        const double ds = f.at(h, i, j) * (dp[j] - dp_mean) / std::sqrt(static_cast<double>(f.head_dim));
        for (Index c = begin; c < end; ++c) {
          dq[i][c] += ds * f.k[j][c];
          dk[j][c] += ds * f.q[i][c];
        }
      }
    }
  }
  for (Index i = 0; i < f.count; ++i) {
    times_backward(parameters, 0, children.row(i), dq[i], dchildren.row(i), dparameters);
    times_backward(parameters, d, children.row(i), dk[i], dchildren.row(i), dparameters);
    times_backward(parameters, 2 * d, children.row(i), dv[i], dchildren.row(i), dparameters);
  }
}

}  // namespace hsattn::reference
