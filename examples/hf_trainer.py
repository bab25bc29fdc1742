"""Local learning under Hugging Face's Trainer: a ViT trained in blocks, saved as a plain ViT.

pip install 'localgrad[trainer]' scikit-learn
python examples/hf_trainer.py
"""

import tempfile

import torch
from sklearn.datasets import load_digits
from transformers import TrainingArguments, ViTConfig, ViTForImageClassification

import localgrad
from localgrad.adapters.transformers import LocalTrainer


def main() -> tuple[float, float]:
    """Return the test accuracy of the model in memory, and of the one that was saved."""
    digits = load_digits()
    images = torch.from_numpy(digits.images).float()[:, None] / 16
    rows = [
        {"pixel_values": image, "labels": int(label)}
        for image, label in zip(images, digits.target, strict=True)
    ]
    torch.manual_seed(0)
    config = ViTConfig(
        image_size=8, patch_size=4, num_channels=1, num_labels=10, hidden_size=64,
        num_hidden_layers=5, num_attention_heads=4, intermediate_size=128,
    )  # fmt: skip
    model = ViTForImageClassification(config)
    learner = localgrad.decouple(model, "backlink", blocks=3, example_input=images[:2])
    print(learner.decoupling)

    with tempfile.TemporaryDirectory() as folder:
        trainer = LocalTrainer(
            learner,  # in place of the model; the rest is Trainer's
            TrainingArguments(
                folder, num_train_epochs=4, per_device_train_batch_size=50, learning_rate=3e-3,
                logging_steps=28, save_strategy="no", report_to=[],
                use_cpu=True, disable_tqdm=True, seed=0,
            ),
            train_dataset=rows[:1400],
            eval_dataset=rows[1400:],
            compute_metrics=lambda p: {"accuracy": (p.predictions.argmax(1) == p.label_ids).mean()},
        )  # fmt: skip
        trainer.train()
        accuracy = float(trainer.evaluate()["eval_accuracy"])
        trainer.save_model()  # the plain ViT, without heads
        again = ViTForImageClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        right = again(images[1400:]).logits.argmax(1) == torch.from_numpy(digits.target[1400:])
    print(f"test accuracy {accuracy:.1%}; of the saved model {right.float().mean():.1%}")
    return accuracy, float(right.float().mean())


if __name__ == "__main__":
    main()
