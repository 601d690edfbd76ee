#include "lm/pretrained/convert.h"

#include <algorithm>
#include <cmath>

#include "hsattn/base/error.h"
#include "hsattn/base/math.h"
#include "hsattn/plan/plan.h"
#include "lm/data/files.h"
#include "lm/pretrained/conversion_inputs.h"
#include "lm/pretrained/measurements.h"
#include "lm/pretrained/perplexity.h"

namespace hsattn::lm {
namespace {

using Json = nlohmann::ordered_json;

class Converter {
 public:
  Converter(Runtime& runtime, const ConvertOptions& options, const std::atomic<bool>& interrupted,
            const ProgressFunction& progress)
      : runtime_(runtime),
        options_(options),
        steps_(interrupted, progress),
        base_(layer_attention(runtime.config(), options.attention, /*own_layers=*/false)),
        texts_(read_conversion_texts(runtime, options)),
        known_(options.out_file() + ".partial", conversion_fingerprint(options, runtime.precision(), texts_)) {
    for (std::size_t i = 0; i < base_.size(); ++i) {
      base_[i].hsa.head_top_k.clear();
      // As long as elsewhere, where this processor would attend more: what is found is for any.
      base_[i].hsa.dense_until = dense_until_of(base_[i].hsa, DType::kFloat32);
      if (runtime.config().windows[i] == 0) report_.layers.push_back(static_cast<Index>(i));
    }
    report_.texts = texts_of(options.text);
    check(!report_.layers.empty(), "every layer of this model has a sliding window, which stays; there is nothing to ",
          "convert");
    range_ = options.range();
    steps_.expect(4 + std::ssize(texts_) * options.calibration +
                  2 * (options.average > 0 ? 1 : 2 + options.steps));  // at most
  }

  ConvertReport run() {
    measure_full();
    measure_heads();
    if (options_.average > 0) {
      report_.chosen = measured_point(static_cast<double>(options_.average), /*uniform=*/false);
      report_.uniform = measured_point(static_cast<double>(options_.average), /*uniform=*/true);
    } else {
      const auto chosen = smallest(/*uniform=*/false);
      if (!chosen) refuse();
      report_.chosen = *chosen;
      report_.uniform = smallest(/*uniform=*/true);
    }
    measure_held_out();
    write();
    known_.remove();
    std::stable_sort(report_.points.begin(), report_.points.end(), [](const BudgetPoint& a, const BudgetPoint& b) {
      return std::pair(a.uniform, a.average) < std::pair(b.uniform, b.average);
    });
    return std::move(report_);
  }

 private:
  // Mean losses of each window of each text: over all positions, and over the last half.
  std::vector<double> read(bool held_out, const std::vector<AttentionOptions>& attention, const std::string& what) {
    runtime_.set_attention(attention);
    std::vector<double> means;
    for (const ConversionText& text : texts_) {
      for (const std::vector<Token>& window : held_out ? text.held_out : text.calibration) {
        steps_.say(what);
        const std::vector<double> losses = runtime_.losses(window);
        means.push_back(mean(losses));
        means.push_back(mean(std::span(losses).subspan(losses.size() / 2)));
      }
    }
    return means;
  }

  std::vector<double> measure(const std::string& name, const std::vector<AttentionOptions>& attention,
                              bool held_out = false) {
    const std::string full_name = (held_out ? "held out: " : "calibration: ") + name;
    steps_.advance();
    const std::size_t windows =
        texts_.size() * static_cast<std::size_t>(held_out ? options_.windows : options_.calibration);
    if (const std::vector<double>* found = known(full_name, 2 * windows)) return *found;
    const std::vector<double> losses = read(held_out, attention, full_name);
    known_.add(full_name, losses);
    return losses;
  }

  // What an earlier run found, if these are `count` numbers: the file may have been changed.
  const std::vector<double>* known(const std::string& name, std::size_t count) const {
    const std::vector<double>* found = known_.find(name);
    return found != nullptr && found->size() == count ? found : nullptr;
  }

  // Always measured: if it is not what an earlier run found, the model has other weights now.
  void measure_full() {
    full_ = read(/*held_out=*/false, with_pattern("full"), "calibration: full");
    const std::vector<double>* found = known_.find("full");
    if (found != nullptr && *found != full_) known_.clear();
    known_.add("full", full_);
    steps_.advance();
  }

  std::vector<AttentionOptions> with_pattern(const std::string& name) const {
    std::vector<AttentionOptions> layers = base_;
    for (const Index layer : report_.layers) layers[static_cast<std::size_t>(layer)].attention = name;
    return layers;
  }

  // Of each text, as shares of what its heads lose together at the least budget: texts count the same.
  void measure_heads() {
    const std::vector<Index> budgets = measured_budgets(range_);
    const Index heads = runtime_.config().kv_heads;
    report_.curves.assign(
        report_.layers.size(),
        std::vector<BudgetCurve>(static_cast<std::size_t>(heads), {budgets, std::vector<double>(budgets.size(), 0.0)}));
    for (std::size_t text = 0; text < texts_.size(); ++text) {
      std::vector<double> sum;
      for (std::size_t window = 0; window < texts_[text].calibration.size(); ++window) {
        const std::vector<double> errors = errors_of_heads(text, window, budgets);
        sum.resize(errors.size(), 0.0);
        for (std::size_t i = 0; i < errors.size(); ++i) sum[i] += errors[i];
      }
      double all = 0;
      for (std::size_t i = 0; i < sum.size(); i += budgets.size()) all += sum[i];
      auto error = sum.begin();
      const double share = all > 0 ? 1 / all / static_cast<double>(texts_.size()) : 0;
      for_each_error([&](double& to) { to += share * *error++; });
    }
  }

  template <class Body>
  void for_each_error(const Body& body) {
    for (std::vector<BudgetCurve>& layer : report_.curves) {
      for (BudgetCurve& head : layer) {
        for (double& error : head.errors) body(error);
      }
    }
  }

  // [layers][kv_heads][budgets] of one calibration window.
  std::vector<double> errors_of_heads(std::size_t text, std::size_t window, const std::vector<Index>& budgets) {
    const std::string name = concat("errors of heads: text ", text, ", window ", window);
    steps_.advance();
    const std::size_t heads = report_.layers.size() * static_cast<std::size_t>(runtime_.config().kv_heads);
    if (const std::vector<double>* found = known(name, heads * budgets.size())) return *found;
    steps_.say(name);
    const auto curves =
        runtime_.head_errors(texts_[text].calibration[window], base_, budgets, [&] { steps_.stop_if_asked(); });
    std::vector<double> errors;
    for (const Index layer : report_.layers) {
      for (const BudgetCurve& head : curves[static_cast<std::size_t>(layer)]) {
        errors.insert(errors.end(), head.errors.begin(), head.errors.end());
      }
    }
    known_.add(name, errors);
    return errors;
  }

  std::vector<AttentionOptions> with_budgets(const std::vector<std::vector<Index>>& top_k) const {
    std::vector<AttentionOptions> layers = base_;
    for (std::size_t i = 0; i < top_k.size(); ++i) {
      layers[static_cast<std::size_t>(report_.layers[i])].hsa.head_top_k = top_k[i];
    }
    return layers;
  }

  // [texts] of perplexity, as shares.
  std::vector<double> changes(const std::vector<double>& losses) const {
    std::vector<double> changes;
    const std::size_t per_text = losses.size() / texts_.size(), windows = per_text / 2;
    for (std::size_t text = 0; text < texts_.size(); ++text) {
      double sum = 0;
      for (std::size_t i = 0; i < per_text; i += 2) sum += losses[text * per_text + i] - full_[text * per_text + i];
      changes.push_back(std::expm1(sum / static_cast<double>(windows)));
    }
    return changes;
  }

  static std::string name_of(const std::vector<std::vector<Index>>& top_k) {
    std::string name = "top_k";
    for (const std::vector<Index>& layer : top_k) {
      for (const Index k : layer) name += concat(" ", k);
    }
    return name;
  }

  // [layers][kv_heads]
  std::vector<std::vector<Index>> budgets_for(double average, bool uniform) const {
    std::vector<BudgetCurve> curves;
    for (const std::vector<BudgetCurve>& layer : report_.curves)
      curves.insert(curves.end(), layer.begin(), layer.end());
    const std::vector<Index> all =
        uniform ? equal_budgets(std::ssize(curves), average, range_) : allocate_budgets(curves, average, range_);
    std::vector<std::vector<Index>> budgets;
    auto at = all.begin();
    for (const std::vector<BudgetCurve>& layer : report_.curves) {
      budgets.emplace_back(at, at + std::ssize(layer));
      at += std::ssize(layer);
    }
    return budgets;
  }

  const BudgetPoint& measured_point(double average, bool uniform) {
    return report_.points.emplace_back(point_of(average, uniform));
  }

  BudgetPoint point_of(double average, bool uniform) {
    BudgetPoint point;
    point.uniform = uniform;
    point.top_k = budgets_for(average, uniform);
    double sum = 0, heads = 0;
    for (const std::vector<Index>& layer : point.top_k) {
      for (const Index k : layer) sum += static_cast<double>(k), ++heads;
    }
    point.average = sum / heads;
    const std::vector<AttentionOptions> layers = with_budgets(point.top_k);
    point.attended = attended_share(layers, options_.context);
    point.change = changes(measure(name_of(point.top_k), layers));
    point.worst = *std::max_element(point.change.begin(), point.change.end());
    return point;
  }

  // The smallest allocation that holds the target. Those that hold are not always all above one: the smallest of those
  // that were measured.
  std::optional<BudgetPoint> smallest(bool uniform) {
    std::optional<BudgetPoint> best;
    smallest_that_holds(static_cast<double>(range_.least), static_cast<double>(range_.most), options_.steps,
                        [&](double average) {
                          const BudgetPoint& point = measured_point(average, uniform);
                          const bool holds = point.worst <= options_.target_share();
                          if (holds && (!best || point.average < best->average)) best = point;
                          return holds;
                        });
    return best;
  }

  [[noreturn]] void refuse() const {
    throw Error(concat("a target of ", 100 * options_.target_share(), "% does not hold even with top_k ", range_.most,
                       " in every head, which costs ", 100 * report_.points.front().worst,
                       "%; a larger --target, or more --most and --candidates, is right"));
  }

  void measure_held_out() {
    const std::vector<double> full = measure("full", with_pattern("full"), true);
    const auto against_full = [&](const BudgetPoint& point) {
      return held_out(measure(name_of(point.top_k), with_budgets(point.top_k), true), full);
    };
    report_.chosen_held_out = against_full(report_.chosen);
    if (report_.uniform) report_.uniform_held_out = against_full(*report_.uniform);
  }

  std::vector<HeldOutChange> held_out(const std::vector<double>& losses, const std::vector<double>& full) const {
    std::vector<HeldOutChange> changes;
    const std::size_t per_text = losses.size() / texts_.size();
    for (std::size_t text = 0; text < texts_.size(); ++text) {
      std::vector<double> parts[2], of_full[2];
      for (std::size_t i = 0; i < per_text; ++i) {
        parts[i % 2].push_back(losses[text * per_text + i]);
        of_full[i % 2].push_back(full[text * per_text + i]);
      }
      changes.push_back({std::exp(mean(of_full[0])), std::exp(mean(of_full[1])),
                         change_of_perplexity(parts[0], of_full[0]), change_of_perplexity(parts[1], of_full[1])});
    }
    return changes;
  }

  void write() const {
    Json file = options_besides_top_k(options_.attention);
    for (std::size_t i = 0; i < report_.layers.size(); ++i) {
      file["layers"][std::to_string(report_.layers[i])]["head_top_k"] = report_.chosen.top_k[i];
    }
    Json texts = Json::array();
    for (std::size_t i = 0; i < report_.texts.size(); ++i) {
      texts.push_back({{"text", report_.texts[i]},
                       {"perplexity_full", report_.chosen_held_out[i].full},
                       {"change", report_.chosen_held_out[i].all.mean},
                       {"change_last_half", report_.chosen_held_out[i].last_half.mean}});
    }
    file["measured"] = {{"target", options_.average > 0 ? Json() : Json(options_.target_share())},
                        {"context", options_.context},
                        {"windows", options_.windows},
                        {"attended_last", report_.chosen.attended.last},
                        {"held_out", texts}};
    write_file(options_.out_file(), file.dump(2) + "\n");
  }

  Runtime& runtime_;
  const ConvertOptions& options_;
  Steps steps_;
  ConvertReport report_;
  std::vector<AttentionOptions> base_;  // [layers]
  std::vector<ConversionText> texts_;
  Measurements known_;
  BudgetRange range_;
  std::vector<double> full_;  // of the calibration windows
};

}  // namespace

bool ConvertReport::held(double target) const {
  return std::all_of(chosen_held_out.begin(), chosen_held_out.end(),
                     [&](const HeldOutChange& change) { return change.all.mean <= target; });
}

ConvertReport convert_model(Runtime& runtime, const ConvertOptions& options, const std::atomic<bool>& interrupted,
                            const ProgressFunction& progress) {
  check_convert_options(options);
  return unless_interrupted<ConvertReport>([&] { return Converter(runtime, options, interrupted, progress).run(); });
}

}  // namespace hsattn::lm
