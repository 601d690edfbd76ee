#include "lm/pretrained/compare.h"

#include <algorithm>
#include <cmath>

#include "hsattn/base/error.h"
#include "lm/data/files.h"
#include "lm/eval/timing.h"
#include "lm/options/lists.h"
#include "lm/pretrained/convert.h"
#include "lm/pretrained/needles.h"
#include "lm/pretrained/perplexity.h"
#include "lm/train/environment.h"

namespace hsattn::lm {
namespace {

// What one way of attending does, thing by thing, to be paired with another's.
struct Outcome {
  struct Losses {
    std::vector<double> all, last_half;  // [windows]
  };
  std::vector<Losses> texts;
  std::vector<double> pass_key, numbers;            // [samples] share of the digits
  std::vector<double> prefill_per_s, decode_per_s;  // [repeats]
};

// Windows of all texts in order.
Outcome::Losses together(const std::vector<Outcome::Losses>& texts) {
  Outcome::Losses all;
  for (const Outcome::Losses& text : texts) {
    all.all.insert(all.all.end(), text.all.begin(), text.all.end());
    all.last_half.insert(all.last_half.end(), text.last_half.begin(), text.last_half.end());
  }
  return all;
}

TextRow text_row(const Outcome::Losses& ours, const Outcome::Losses& full) {
  return {std::exp(mean(ours.all)), std::exp(mean(ours.last_half)), change_of_perplexity(ours.all, full.all),
          change_of_perplexity(ours.last_half, full.last_half)};
}

// Then the text decides how much is attended.
bool has_mass_budget(const std::vector<AttentionOptions>& layers) {
  return std::any_of(layers.begin(), layers.end(),
                     [](const AttentionOptions& o) { return o.attention == "hsa" && o.hsa.mass > 0; });
}

class Comparison {
 public:
  Comparison(Runtime& runtime, const CompareOptions& options, const std::atomic<bool>& interrupted,
             const ProgressFunction& progress)
      : runtime_(runtime), options_(options), interrupted_(interrupted), steps_(interrupted, progress) {
    for (const std::string& name : names_of_rows(options)) {
      CompareRow row;
      row.name = name;
      layers_.push_back(layers_of_row(name, runtime.config(), runtime.attention()));
      row.attended = attended_share(layers_.back(), options.context);
      report_.rows.push_back(row);
    }
    outcomes_.resize(layers_.size());
    report_.texts = texts_of(options.text);
    for (const std::string& path : report_.texts) {
      windows_.push_back(windows_of_text(runtime, path, options.context, options.windows));
    }
    if (options.answers > 0) prepare_recall();
    const Index of_row = std::ssize(windows_) * options.windows + counts_.pass_keys + counts_.numbers;
    steps_.expect(std::ssize(layers_) * (of_row + (options.speed ? options.repeats : 0)) +
                  (options.positions > 0 ? 1 : 0));
  }

  CompareReport run() {
    for (std::size_t row = 0; row < layers_.size(); ++row) {
      runtime_.set_attention(layers_[row]);
      measure_losses(row);
      measure_recall(row, 0, counts_.pass_keys, outcomes_[row].pass_key, report_.rows[row].pass_key);
      measure_recall(row, counts_.pass_keys, counts_.numbers, outcomes_[row].numbers, report_.rows[row].numbers);
    }
    if (options_.positions > 0) measure_mass();
    if (options_.speed) measure_speed();
    fill_rows();
    return std::move(report_);
  }

  static std::vector<std::string> names_of_rows(const CompareOptions& options) {
    std::vector<std::string> names = {"full"};
    for (const std::string& name : split_list(options.rows)) {
      if (name != "full") names.push_back(name);
    }
    return names;
  }

 private:
  // The sample `i`, of pass keys first. Each begins elsewhere in the texts, which go round: steps of the golden section
  // reach all of them evenly.
  NeedleSample sample(Index i) const {
    const Tokenizer& tokenizer = runtime_.tokenizer();
    const NeedleWords words = {[&](std::string_view text) { return runtime_.encode(text); },
                               [&](Token token) {
                                 const std::string_view bytes = tokenizer.bytes_of(token);
                                 return bytes.ends_with('.') || bytes.ends_with('\n');
                               }};
    const double turns = 0.6180339887498949 * static_cast<double>(i + 1), place = turns - std::floor(turns);
    std::vector<Token> filler = filler_;
    const auto begin = static_cast<std::ptrdiff_t>(place * static_cast<double>(filler.size()));
    std::rotate(filler.begin(), filler.begin() + begin, filler.end());
    return needle_sample(words, filler, options_.context, i < counts_.pass_keys ? 1 : options_.numbers,
                         static_cast<std::uint64_t>(options_.seed * 1000003 + i));
  }

  void prepare_recall() {
    for (const auto& text : windows_) {
      for (const std::vector<Token>& window : text) filler_.insert(filler_.end(), window.begin(), window.end() - 1);
    }
    counts_ = recall_counts(options_.answers, options_.numbers);
    sample(counts_.pass_keys + counts_.numbers - 1);  // numbers that do not fit are refused now
  }

  void measure_losses(std::size_t row) {
    for (std::size_t text = 0; text < windows_.size(); ++text) {
      Outcome::Losses& losses = outcomes_[row].texts.emplace_back();
      for (const std::vector<Token>& window : windows_[text]) {
        steps_.next(report_.rows[row].name + ": perplexity");
        const std::vector<double> found = runtime_.losses(window);
        losses.all.push_back(mean(found));
        losses.last_half.push_back(mean(std::span(found).subspan(found.size() / 2)));
      }
    }
  }

  void measure_recall(std::size_t row, Index first, Index count, std::vector<double>& shares, RecallRow& result) {
    for (Index i = first; i < first + count; ++i) {
      steps_.next(report_.rows[row].name + ": recall");
      const NeedleSample asked = sample(i);
      const std::vector<Token> found = runtime_.likeliest(asked.tokens, asked.asked);
      Index right = 0;
      for (std::size_t k = 0; k < found.size(); ++k) {
        right += found[k] == asked.tokens[static_cast<std::size_t>(asked.asked[k])] ? 1 : 0;
      }
      result.digits += std::ssize(found), result.right += right, ++result.samples;
      shares.push_back(static_cast<double>(right) / static_cast<double>(found.size()));
    }
  }

  // On the first window of each text.
  void measure_mass() {
    steps_.next("attention mass");
    std::vector<HeldShare> sums(layers_.size());
    for (const auto& text : windows_) {
      steps_.stop_if_asked();
      const std::vector<Token> tokens(text[0].begin(), text[0].end() - 1);
      const std::vector<HeldShare> shares = runtime_.held_mass(tokens, layers_, options_.positions);
      for (std::size_t row = 0; row < sums.size(); ++row) sums[row] = sums[row] + shares[row];
    }
    for (std::size_t row = 0; row < sums.size(); ++row) {
      const HeldShare held = sums[row] / static_cast<double>(windows_.size());
      report_.rows[row].mass = held.mass;
      if (has_mass_budget(layers_[row])) report_.rows[row].attended = held.attended;
    }
  }

  // In turns, so that a machine that drifts does so for all.
  void measure_speed() {
    GenerateRequest request;
    request.prompt.assign(windows_[0][0].begin(), windows_[0][0].end() - 1);
    request.max_tokens = options_.decode + 1;
    request.ignore_end = true;
    for (Index repeat = 0; repeat < options_.repeats; ++repeat) {
      for (std::size_t row = 0; row < layers_.size(); ++row) {
        steps_.next(report_.rows[row].name + ": speed");
        time_one(request, row);
      }
    }
  }

  void time_one(const GenerateRequest& request, std::size_t row) {
    runtime_.set_attention(layers_[row]);
    const bool counts = forget_peak_memory();
    const GenerateResult result = runtime_.generate(request, interrupted_, [](const std::string&) {});
    if (result.finish == "interrupted") throw Steps::Interrupted{};
    outcomes_[row].prefill_per_s.push_back(static_cast<double>(request.prompt.size()) / result.first_token_s);
    const double seconds = result.seconds - result.first_token_s;
    outcomes_[row].decode_per_s.push_back(static_cast<double>(result.tokens.size() - 1) / seconds);
    report_.rows[row].cache_mib = static_cast<double>(runtime_.cache_bytes()) / (1 << 20);
    if (counts) report_.rows[row].peak_mib = std::max(report_.rows[row].peak_mib, peak_memory_mib());
  }

  void fill_rows() {
    for (std::size_t i = 0; i < report_.rows.size(); ++i) {
      CompareRow& row = report_.rows[i];
      const Outcome &ours = outcomes_[i], &full = outcomes_[0];
      for (std::size_t text = 0; text < windows_.size(); ++text) {
        row.texts.push_back(text_row(ours.texts[text], full.texts[text]));
      }
      row.all_texts = text_row(together(ours.texts), together(full.texts));
      if (!ours.pass_key.empty()) row.pass_key.difference = paired_difference(ours.pass_key, full.pass_key);
      if (!ours.numbers.empty()) row.numbers.difference = paired_difference(ours.numbers, full.numbers);
      if (!ours.prefill_per_s.empty()) {
        row.prefill_tokens_per_s = median(ours.prefill_per_s);
        row.decode_tokens_per_s = median(ours.decode_per_s);
      }
    }
  }

  Runtime& runtime_;
  const CompareOptions& options_;
  const std::atomic<bool>& interrupted_;
  Steps steps_;
  CompareReport report_;
  std::vector<std::vector<AttentionOptions>> layers_;     // [rows]
  std::vector<std::vector<std::vector<Token>>> windows_;  // [texts]
  std::vector<Token> filler_;                             // between numbers: all windows
  RecallCounts counts_;
  std::vector<Outcome> outcomes_;  // [rows]
};

}  // namespace

CompareReport compare_attention(Runtime& runtime, const CompareOptions& options, const std::atomic<bool>& interrupted,
                                const ProgressFunction& progress) {
  check_compare_options(options);
  return unless_interrupted<CompareReport>([&] { return Comparison(runtime, options, interrupted, progress).run(); });
}

}  // namespace hsattn::lm
