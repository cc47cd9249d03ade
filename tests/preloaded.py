"""What each process that is forked for a test would otherwise do anew."""

from transformers import conversion_mapping

conversion_mapping.get_checkpoint_conversion_mapping("clip_text_model")  # 900 patterns, half a second
