// The UniVA objective on the CPU: all of its terms in one call. Rows of logits are few and short,
// so everything about them is in double.

#include "univa/objective.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <numeric>
#include <vector>

#include "cpu/contrastive.h"
#include "cpu/matrix.h"
#include "cpu/prior.h"
#include "univa/reduction.h"

namespace univa::cpu {

namespace {

// log sum_j exp x_j; a maximum that is no number or infinite is what comes out.
template <typename T>
double log_sum_exp(const T* values, int64_t count) {
  double maximum = -std::numeric_limits<double>::infinity();
  for (int64_t j = 0; j < count; ++j) {
    maximum = values[j] > maximum ? values[j] : maximum;
  }
  const double shift = std::isinf(maximum) ? 0.0 : maximum;
  double sum = 0;
  for (int64_t j = 0; j < count; ++j) {
    sum += std::exp(values[j] - shift);
  }
  return shift + std::log(sum);
}

// Logits and labels [B, L], and what the scores of a row share.
template <typename T>
class Scores {
 public:
  explicit Scores(const ObjectiveArguments& arguments)
      : arguments_(arguments),
        logits_(converted(arguments.logits, scalar_type_of<T>())),
        labels_(converted(arguments.labels, scalar_type_of<T>())) {}

  // Calls body(row, scores, targets), both arrays [L], for every row.
  template <typename Body>
  void for_rows(const Body& body) const {
    const int64_t count = arguments_.columns;
    const bool divergence = arguments_.classification == Classification::kKl;
    const auto run = [&](int64_t begin, int64_t end) {
      std::vector<Score<double>> scores(count);
      std::vector<double> targets(count);
      for (int64_t row = begin; row < end; ++row) {
        const T* logits = logits_.template const_data_ptr<T>() + row * count;
        const T* labels = labels_.template const_data_ptr<T>() + row * count;
        const double log_sum = log_sum_exp(logits, count);
        const double label_log_sum = divergence ? log_sum_exp(labels, count) : 0.0;
        for (int64_t j = 0; j < count; ++j) {
          scores[j] = Score<double>::make(logits[j], log_sum);
          targets[j] = labels[j] - label_log_sum;
        }
        body(row, scores.data(), targets.data());
      }
    };
    torch::stable::parallel_for(0, arguments_.rows, row_grain(32 * count), run);
  }

 private:
  const ObjectiveArguments& arguments_;
  Tensor logits_;
  Tensor labels_;
};

PriorSize prior_size(const ObjectiveArguments& arguments) {
  return {arguments.rows, arguments.columns, arguments.form == PriorForm::kNorm};
}

// Rows of a modality that its mean goes over. stats: [4, B].
template <typename T>
double mean_rows_of(const ObjectiveArguments& arguments, const T* stats) {
  const T* counts = stats + kCount * arguments.rows;
  const auto without = std::count(counts, counts + arguments.rows, T(0));
  return mean_rows(arguments.skip_rows, static_cast<double>(arguments.rows - without),
                   arguments.rows);
}

// The modalities' contrastive terms: side by side where they are small, so that the threads are
// woken once, else one after the other with all threads on each.
template <typename Tasks>
void run_all(const ObjectiveArguments& arguments, const Tasks& tasks) {
  constexpr int64_t kSmall = 128;
  const auto run = [&](int64_t begin, int64_t end) {
    for (int64_t m = begin; m < end; ++m) {
      tasks[m]->run();
    }
  };
  const int64_t count = static_cast<int64_t>(tasks.size());
  if (arguments.rows <= kSmall) {
    torch::stable::parallel_for(0, count, 1, run);
  } else {
    run(0, count);
  }
}

template <typename T>
void forward(const ObjectiveArguments& arguments, T* terms, T* stats) {
  const int64_t rows = arguments.rows;
  const int64_t columns = arguments.columns;
  const Activation activation = arguments.activation();
  std::vector<double> row_losses(rows);
  std::vector<double> predictions(arguments.has_prior() ? rows * columns : 0);
  Scores<T>(arguments).for_rows(
      [&](int64_t row, const Score<double>* scores, const double* targets) {
        double sum = 0;
        for (int64_t j = 0; j < columns; ++j) {
          sum += scores[j].loss(arguments.classification, targets[j]);
        }
        row_losses[row] = sum;
        for (int64_t j = 0; j < columns && arguments.has_prior(); ++j) {
          predictions[row * columns + j] = scores[j].prediction(activation);
        }
      });
  double classification = 0;
  for (const double loss : row_losses) {
    classification += loss;
  }
  classification *= classification_scale<double>(arguments.classification, rows, columns);
  double prior = 0;
  if (arguments.has_prior()) {
    const Tensor similarity = converted(*arguments.similarity, scalar_type_of<T>());
    prior = prior_value(prior_size(arguments), predictions.data(),
                        similarity.template const_data_ptr<T>());
  }
  double total = (1 - arguments.alpha) * (classification + prior);
  const size_t modalities = arguments.modalities.size();
  std::vector<T> losses(modalities * rows);
  std::vector<std::unique_ptr<Task>> tasks;
  for (size_t m = 0; m < modalities; ++m) {
    tasks.push_back(losses_task(arguments.modalities[m], losses.data() + m * rows,
                                stats + m * kStatsRows * rows));
  }
  run_all(arguments, tasks);
  for (size_t m = 0; m < modalities; ++m) {
    T* own = stats + static_cast<int64_t>(m) * kStatsRows * rows;
    const double sum = std::accumulate(losses.begin() + m * rows, losses.begin() + (m + 1) * rows,
                                       0.0);
    const double contrastive = sum / mean_rows_of(arguments, own);
    terms[kContrastive + m] = static_cast<T>(contrastive);
    total += arguments.shares[m] * contrastive;
  }
  terms[kTotal] = static_cast<T>(total);
  terms[kClassification] = static_cast<T>(classification);
  terms[kPrior] = static_cast<T>(prior);
}

// What the objective's gradient comes down to for each of its terms.
template <typename T>
struct Upstream {
  double total;
  double classification;
  double prior;
  const T* contrastive;

  Upstream(const T* grad_terms, double alpha)
      : total(grad_terms[kTotal]),
        classification(grad_terms[kClassification] + (1 - alpha) * total),
        prior(grad_terms[kPrior] + (1 - alpha) * total),
        contrastive(grad_terms + kContrastive) {}

  double modality(size_t m, double share) const { return contrastive[m] + share * total; }
};

// The gradient of the logits [B, L]; that of the similarity goes to `grad_similarity`.
template <typename T>
void logit_gradients(const ObjectiveArguments& arguments, const Upstream<T>& upstream,
                     T* grad_logits, T* grad_similarity) {
  const int64_t rows = arguments.rows;
  const int64_t columns = arguments.columns;
  const Activation activation = arguments.activation();
  const Scores<T> scores_of(arguments);
  std::vector<double> grad_predictions;
  if (arguments.has_prior()) {
    std::vector<double> predictions(rows * columns);
    grad_predictions.resize(rows * columns);
    scores_of.for_rows([&](int64_t row, const Score<double>* scores, const double*) {
      for (int64_t j = 0; j < columns; ++j) {
        predictions[row * columns + j] = scores[j].prediction(activation);
      }
    });
    const Tensor similarity = converted(*arguments.similarity, scalar_type_of<T>());
    prior_gradients(prior_size(arguments), upstream.prior, predictions.data(),
                    similarity.template const_data_ptr<T>(), grad_predictions.data(),
                    grad_similarity);
  }
  const double scale = upstream.classification *
                       classification_scale<double>(arguments.classification, rows, columns);
  scores_of.for_rows([&](int64_t row, const Score<double>* scores, const double* targets) {
    T* gradient = grad_logits + row * columns;
    if (!arguments.has_prior()) {
      for (int64_t j = 0; j < columns; ++j) {
        gradient[j] = static_cast<T>(scale * scores[j].slope(arguments.classification, targets[j]));
      }
      return;
    }
    const double* of_predictions = grad_predictions.data() + row * columns;
    double sum = 0;
    for (int64_t j = 0; j < columns; ++j) {
      sum += scores[j].share(activation, of_predictions[j]);
    }
    for (int64_t j = 0; j < columns; ++j) {
      const double own = scale * scores[j].slope(arguments.classification, targets[j]);
      gradient[j] =
          static_cast<T>(own + scores[j].through(activation, of_predictions[j], sum));
    }
  });
}

template <typename T>
std::tuple<Tensor, Tensor, Tensor, std::vector<Tensor>> backward(
    const ObjectiveArguments& arguments, const T* grad_terms, const T* stats) {
  const int64_t rows = arguments.rows;
  const int64_t columns = arguments.columns;
  const ScalarType type = arguments.logits.scalar_type();
  const Upstream<T> upstream(grad_terms, arguments.alpha);

  Tensor grad_logits = torch::stable::new_empty(arguments.logits, {rows, columns}, arguments.wide);
  Tensor grad_similarity =
      arguments.has_prior()
          ? torch::stable::new_empty(arguments.logits, {columns, columns}, arguments.wide)
          : torch::stable::new_empty(arguments.logits, {0}, arguments.wide);
  logit_gradients(arguments, upstream, grad_logits.mutable_data_ptr<T>(),
                  grad_similarity.mutable_data_ptr<T>());

  const size_t modalities = arguments.modalities.size();
  std::vector<T> per_row(modalities * rows);
  std::vector<std::unique_ptr<GradientsTask>> tasks;
  double by_inverse = 0;  // tau times the gradient of the temperature, sign turned
  for (size_t m = 0; m < modalities; ++m) {
    const T* own = stats + static_cast<int64_t>(m) * kStatsRows * rows;
    const double mean_upstream =
        upstream.modality(m, arguments.shares[m]) / mean_rows_of(arguments, own);
    for (int64_t row = 0; row < rows; ++row) {
      per_row[m * rows + row] = static_cast<T>(mean_upstream);
      by_inverse += mean_upstream * own[kLogitGap * rows + row];  // 0 without positives
    }
    tasks.push_back(gradients_task(arguments.modalities[m], per_row.data() + m * rows, own));
  }
  run_all(arguments, tasks);
  std::vector<Tensor> grad_embeddings;
  for (const auto& task : tasks) {
    grad_embeddings.push_back(std::get<0>(task->gradients()));
  }
  const bool learned = arguments.learned_temperature.has_value();
  Tensor grad_temperature = learned
                                ? torch::stable::new_empty(arguments.logits, {}, arguments.wide)
                                : torch::stable::new_empty(arguments.logits, {0}, arguments.wide);
  if (learned) {
    const double temperature = *arguments.learned_temperature->const_data_ptr<T>();
    *grad_temperature.mutable_data_ptr<T>() = static_cast<T>(-by_inverse / temperature);
  }
  return {converted(grad_logits, type), converted(grad_similarity, type), grad_temperature,
          grad_embeddings};
}

}  // namespace

std::tuple<Tensor, Tensor> objective_forward(
    const Tensor& logits, const Tensor& labels, const OptionalTensor& similarity,
    const std::vector<Tensor>& embeddings, const std::vector<Tensor>& coordinates,
    const std::vector<double>& weights, const OptionalTensor& learned_temperature,
    double temperature, double radius, double sigma, double alpha, double self_weight,
    bool skip_rows, bool normalize, const std::string& classification, const std::string& prior) {
  const ObjectiveArguments arguments = check_objective(
      logits, labels, similarity, embeddings, coordinates, weights,
      {learned_temperature, temperature, radius, sigma, self_weight, 0, false, normalize}, alpha,
      skip_rows, classification, prior);
  const int64_t modalities = static_cast<int64_t>(embeddings.size());
  Tensor terms =
      torch::stable::new_empty(arguments.logits, {kContrastive + modalities}, arguments.wide);
  Tensor stats = torch::stable::new_empty(
      arguments.logits, {modalities, kStatsRows, arguments.rows}, arguments.wide);
  if (arguments.wide == ScalarType::Double) {
    forward(arguments, terms.mutable_data_ptr<double>(), stats.mutable_data_ptr<double>());
  } else {
    forward(arguments, terms.mutable_data_ptr<float>(), stats.mutable_data_ptr<float>());
  }
  return {terms, stats};
}

std::tuple<Tensor, Tensor, Tensor, std::vector<Tensor>> objective_backward(
    const Tensor& grad_terms, const Tensor& logits, const Tensor& labels,
    const OptionalTensor& similarity, const std::vector<Tensor>& embeddings,
    const std::vector<Tensor>& coordinates, const OptionalTensor& learned_temperature,
    const Tensor& stats, const std::vector<double>& weights, double temperature, double radius,
    double sigma, double alpha, double self_weight, bool skip_rows, bool normalize,
    const std::string& classification, const std::string& prior) {
  const ObjectiveArguments arguments = check_objective(
      logits, labels, similarity, embeddings, coordinates, weights,
      {learned_temperature, temperature, radius, sigma, self_weight, 0, false, normalize}, alpha,
      skip_rows, classification, prior);
  const auto [upstream, kept] = check_objective_backward(arguments, grad_terms, stats);
  if (arguments.wide == ScalarType::Double) {
    return backward(arguments, upstream.const_data_ptr<double>(), kept.const_data_ptr<double>());
  }
  return backward(arguments, upstream.const_data_ptr<float>(), kept.const_data_ptr<float>());
}

}  // namespace univa::cpu
