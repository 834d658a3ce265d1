"""Say in a plain sentence what each drop reason means; the terminal, report.html and docs/thresholds.md use them."""

from __future__ import annotations

REASONS = {
    # of rows, at the source
    "bad_json": "the line is not a JSON object",
    "bad_id": "the id is not a text or a whole number",
    "no_question": "there is no question",
    "no_answer": "there is no answer",
    "bad_answer": "an answer is not a text or a number",
    "bad_text": "a text is not valid Unicode",
    "bad_field": "a field has a value that it can't have",
    "several_images": "a question is about one image",
    "image_missing": "there is no such image",
    "image_outside_root": "the path leads out of the folder of images (--images-root names another)",
    "image_too_large": "the image is beyond the limits of bytes or pixels",
    "image_too_small": "the image is too small for a box",
    "image_truncated": "the image file ends too early",
    "image_unreadable": "the file is not an image that can be read",
    "image_url_refused": "the URL is not among --allow-urls, or not public",
    "image_fetch_failed": "the URL gave no image",
    "image_size_mismatch": "the image has another size than the row says",
    "bad_label": "the label is not 0 or 1",
    "bad_turn": "the turn holds no question with choices and a letter",
    # of gold boxes alone: their questions stay
    "bad_box": "a labeled box can't be read, or does not lie in the image",
    "reversed_box": "a labeled box was written from another corner, and is put right",
    "box_mismatch": "a row's labeled boxes contradict each other",
    # of attempts or whole questions, at the models
    "image_too_thin": "no box can be written about so thin an image",
    "model_refused": "the model's processor or server does not take the request",
    "too_long": "the prompt does not fit the model's context",
    "no_box": "no box could be read from the actor's reply",
    "several_boxes": "the actor's reply has several boxes",
    "not_finite": "a coordinate is no finite number",
    "out_of_range": "a coordinate is outside the box space",
    "reversed": "a box ends before it begins",
    # of questions, at the filter
    "no_candidates": "every attempt was lost earlier",
    "all_unparsed": "no candidate has all its scores",
    "neither": "no candidate reaches W, none falls to L",
    "no_win": "W is empty: too hard",
    "no_lose": "L is empty: too easy",
    "win_not_joint": "no member of W is the best by both scores at once",
    "lose_not_joint": "no member of L is the worst by both scores at once",
    "same_box": "the best and the worst have one and the same box",
}
OF_WHOLE_QUESTIONS = ("image_too_thin", "model_refused", "too_long")


def explain(reason: str) -> str:
    """Return the sentence of a reason; "" for one that a source of your own has."""
    return REASONS.get(reason, "")
