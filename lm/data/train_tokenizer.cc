#include "lm/data/train_tokenizer.h"

#include <filesystem>

#include "hsattn/base/error.h"
#include "lm/data/document_reader.h"
#include "lm/data/documents.h"
#include "lm/data/python_process.h"
#include "lm/tokenizer/unicode.h"

namespace hsattn::lm {
namespace {

std::vector<std::string> all_files(const std::vector<std::string>& inputs) {
  std::vector<std::string> files;
  for (const std::string& input : inputs) {
    std::error_code ignored;
    const bool folder = std::filesystem::is_directory(input, ignored);
    for (const std::string& file : folder ? files_under(input) : std::vector<std::string>{input}) files.push_back(file);
  }
  return files;
}

}  // namespace

void train_tokenizer(const std::vector<std::string>& inputs, const std::string& field,
                     const TokenizerTraining& training, Index& documents, Index& bad) {
  documents = bad = 0;
  PythonProcess python(
      {"train", "--vocabulary", std::to_string(training.vocabulary), "--split", training.split, "--out", training.out},
      "training a tokenizer");
  for (const std::string& file : all_files(inputs)) {
    const auto source = open_source(file, {.rows_are_lines = false, .field = field}, "");
    DocumentReader reader(*source, Cutting::kWhole, field);
    for (StreamedDocument document; reader.next(document);) {
      const bool good = document.bad.empty() && invalid_utf8(document.text) == std::string::npos;
      ++(good ? documents : bad);
      if (good) python.send(document.text);
    }
  }
  python.end_of_texts();
  if (documents == 0) throw FileError("training a tokenizer: no text in " + inputs.front());
  Frame answer;
  python.receive(answer);  // done, or it throws
}

}  // namespace hsattn::lm
