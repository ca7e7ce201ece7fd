// Each call of training as an async worker: texts and slices in, trainer call, arrays out.
#include "addon/training.h"

#include <cstring>

#include "addon/call_worker.h"
#include "addon/errors.h"
#include "addon/handles.h"
#include "addon/values.h"

namespace gorgon {

namespace {

/** A call with an idle trainer. Made when everything else is read, as a SessionList is. */
class TrainerCall {
 public:
  TrainerCall(const Napi::Value& trainer, const char* name) : handle_(idle_trainer(trainer)), env_(trainer.Env()), name_(name) {}

  const std::shared_ptr<Trainer>& trainer() const { return handle_->owner; }

  /** Runs body(trainer), alone on its model, then answers with result(env). */
  template <class Body, class Result>
  Napi::Value start(Body body, Result result) {
    auto* worker = new CallWorker(env_, name_, {handle_});
    worker->run = [owner = handle_->owner, body = std::move(body)] {
      const std::lock_guard<std::mutex> lock(owner->model().mutex());
      return body(*owner);
    };
    worker->result = std::move(result);
    return worker->start();
  }

 private:
  std::shared_ptr<TrainerHandle> handle_;
  Napi::Env env_;
  const char* name_;
};

std::shared_ptr<std::vector<TrainingText>> read_texts(const Napi::Value& value) {
  if (!value.IsArray()) throw_argument(value.Env(), "texts are not an array");
  const auto list = value.As<Napi::Array>();
  auto texts = std::make_shared<std::vector<TrainingText>>();
  for (uint32_t i = 0; i < list.Length(); ++i) {
    const Napi::Object object = read_object(list.Get(i), "a text");
    TrainingText& text = texts->emplace_back();
    text.tokens = read_array<int32_t>(object, "tokens");
    text.from = read_integer(object, "from");
    const Napi::Value hidden = object.Get("hidden");
    if (hidden.IsNull()) continue;
    size_t length = 0;
    const uint8_t* bytes = read_data<uint8_t>(hidden, "hidden", &length);
    throw_unless_ok(value.Env(), text.hidden.emplace().allocate(static_cast<int64_t>(length), "hidden rows of a text"));
    if (length > 0) std::memcpy(text.hidden->data(), bytes, length);
  }
  return texts;
}

Napi::Value write_scores(Napi::Env env, const std::vector<TextScores>& scores) {
  return write_list(env, scores, [&](const TextScores& text) {
    auto object = Napi::Object::New(env);
    object.Set("losses", write_array(env, text.losses));
    object.Set("ranks", write_array(env, text.ranks));
    return object;
  });
}

struct Slice {
  std::string tensor;
  TrainingPart part;
  int64_t first;
};

Slice read_slice(const Napi::Value& value) {
  const Napi::Object object = read_object(value, "the slice");
  const std::string part = read_string(object, "part");
  const std::pair<const char*, TrainingPart> parts[] = {{"weights", TrainingPart::kWeights},
                                                        {"mean", TrainingPart::kMean},
                                                        {"variance", TrainingPart::kVariance},
                                                        {"gradient", TrainingPart::kGradient}};
  for (const auto& [name, known] : parts) {
    if (part == name) return {read_string(object, "tensor"), known, read_integer(object, "first")};
  }
  throw_argument(value.Env(), "part \"" + part + "\" is not one of weights, mean, variance, gradient");
}

Napi::Value nothing(Napi::Env env) { return env.Undefined(); }

}  // namespace

Napi::Value open_trainer(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const Napi::Object object = read_object(info[1], "the trainer's spec");
  TrainerSpec spec;
  spec.medusa_heads = read_integer(object, "medusaHeads");
  spec.blocks = read_integer(object, "blocks");
  spec.private_projection = read_bool(object, "privateProjection");
  const auto trainer = std::make_shared<std::shared_ptr<Trainer>>();
  const std::shared_ptr<Model> model = open_model(info[0])->owner;
  auto* worker = new CallWorker(env, "gorgon.openTrainer", {});
  worker->run = [model, spec, trainer] {
    const std::lock_guard<std::mutex> lock(model->mutex());
    return Trainer::open(model, spec, trainer.get());
  };
  worker->result = [trainer](Napi::Env result_env) { return wrap_trainer(result_env, std::move(*trainer)); };
  return worker->start();
}

Napi::Value trainer_info(const Napi::CallbackInfo& info) {
  auto object = Napi::Object::New(info.Env());
  object.Set("bytes", Napi::Number::New(info.Env(), static_cast<double>(idle_trainer(info[0])->owner->bytes())));
  return object;
}

Napi::Value hidden_rows(const Napi::CallbackInfo& info) {
  size_t length = 0;
  const int32_t* data = read_data<int32_t>(info[1], "tokens", &length);
  const std::vector<int32_t> tokens(data, data + length);
  const auto rows = std::make_shared<AlignedBuffer>();
  return TrainerCall(info[0], "gorgon.hiddenRows")
      .start([tokens, rows](Trainer& trainer) { return trainer.hidden_rows(tokens, rows.get()); },
             [rows](Napi::Env env) { return write_memory(env, std::move(*rows)); });
}

Napi::Value score(const Napi::CallbackInfo& info) {
  const auto texts = read_texts(info[1]);
  const auto scores = std::make_shared<std::vector<TextScores>>();
  return TrainerCall(info[0], "gorgon.score")
      .start([texts, scores](Trainer& trainer) { return trainer.score(*texts, scores.get()); },
             [scores](Napi::Env env) { return write_scores(env, *scores); });
}

Napi::Value accumulate(const Napi::CallbackInfo& info) {
  const auto texts = read_texts(info[1]);
  size_t length = 0;
  const float* data = read_data<float>(info[2], "scales", &length);
  const std::vector<float> scales(data, data + length);
  const auto scores = std::make_shared<std::vector<TextScores>>();
  return TrainerCall(info[0], "gorgon.accumulate")
      .start([texts, scales, scores](Trainer& trainer) { return trainer.accumulate(*texts, scales, scores.get()); },
             [scores](Napi::Env env) { return write_scores(env, *scores); });
}

Napi::Value update(const Napi::CallbackInfo& info) {
  const Napi::Object object = read_object(info[1], "the update");
  UpdateSpec spec;
  spec.scale = read_float(object, "scale");
  spec.clip = read_float(object, "clip");
  spec.rate = read_float(object, "learningRate");
  spec.beta1 = read_float(object, "beta1");
  spec.beta2 = read_float(object, "beta2");
  spec.epsilon = read_float(object, "epsilon");
  spec.decay = read_float(object, "weightDecay");
  spec.step = read_integer(object, "step");
  const auto norm = std::make_shared<double>(0.0);
  return TrainerCall(info[0], "gorgon.update")
      .start([spec, norm](Trainer& trainer) { return trainer.update(spec, norm.get()); },
             [norm](Napi::Env env) {
               auto result = Napi::Object::New(env);
               result.Set("gradientNorm", Napi::Number::New(env, *norm));
               return result;
             });
}

Napi::Value read_weights(const Napi::CallbackInfo& info) {
  const Slice slice = read_slice(info[1]);
  const int64_t count = to_integer(info[2], "count");
  TrainerCall call(info[0], "gorgon.read");
  // Before memory is asked for: nobody gets more than there is.
  throw_unless_ok(info.Env(), call.trainer()->check(slice.tensor, slice.first, count));
  const auto values = std::make_shared<std::vector<float>>(count);
  return call.start([slice, values](Trainer& trainer) { return trainer.read(slice.tensor, slice.part, slice.first, values->size(), values->data()); },
                    [values](Napi::Env env) { return write_array(env, *values); });
}

Napi::Value write_weights(const Napi::CallbackInfo& info) {
  const Slice slice = read_slice(info[1]);
  size_t length = 0;
  const float* data = read_data<float>(info[2], "values", &length);
  const auto values = std::make_shared<std::vector<float>>(data, data + length);
  return TrainerCall(info[0], "gorgon.write")
      .start([slice, values](Trainer& trainer) { return trainer.write(slice.tensor, slice.part, slice.first, values->size(), values->data()); }, nothing);
}

}  // namespace gorgon
