"""Where ElasticMQ is known to differ from AWS."""

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["ELASTICMQ", "Difference"]


@dataclass(frozen=True, slots=True)
class Difference:
    """What AWS documents, and what ElasticMQ does instead."""

    aws: str
    elasticmq: str
    hangs: bool = False


_PARAMETER = "InvalidParameterValue"
_NAMED = "InvalidAttributeValue, which AWS uses for queue attributes only"

#: Test, or test and case -> where ElasticMQ 1.7.1 differs. The tests assert what AWS does and are
#: strict: an ElasticMQ that comes to agree fails the run until its line is taken out.
ELASTICMQ: Mapping[str, Difference] = {
    # Messages
    "test_attribute_filters[Hel.*-Hello,Help.Me]": Difference("prefix.* selects", "nothing"),
    "test_attribute_filters[Help.*-Help.Me]": Difference("prefix.* selects", "nothing"),
    "test_digest_of_system_attributes": Difference("MD5OfMessageSystemAttributes", "none"),
    "test_other_system_attributes_are_refused": Difference(_PARAMETER, "taken"),
    "test_eleven_attributes_are_refused": Difference(_PARAMETER, _NAMED),
    "test_bad_attributes_are_refused[no number]": Difference(_PARAMETER, _NAMED),
    "test_bad_attributes_are_refused[no value]": Difference(_PARAMETER, "MissingParameter"),
    "test_bad_attributes_are_refused[control character]": Difference(_PARAMETER, _NAMED),
    "test_bad_attribute_names_are_refused": Difference(_PARAMETER, "taken"),
    "test_empty_string_attribute_is_refused": Difference(_PARAMETER, _NAMED),
    "test_control_characters_are_refused": Difference("InvalidMessageContents", _NAMED),
    "test_empty_body_is_refused": Difference("MissingParameter", _NAMED),
    "test_more_than_one_mebibyte_is_refused": Difference(_PARAMETER, _NAMED),
    "test_size_counts_attribute_names_types_and_values": Difference(
        "attributes count toward the size", "only the body counts"
    ),
    "test_maximum_message_size_of_the_queue_counts": Difference(
        "the queue's MaximumMessageSize limits", "has no such attribute"
    ),
    "test_receive_parameters_out_of_range_are_refused": Difference(_PARAMETER, _NAMED),
    # Batches
    "test_one_bad_message_fails_alone": Difference("Failed entry", "fails the whole call"),
    "test_one_bad_character_fails_alone": Difference("InvalidMessageContents", _NAMED),
    "test_one_message_too_large_for_the_queue_fails_alone": Difference(
        "the queue's MaximumMessageSize limits", "has no such attribute"
    ),
    "test_malformed_batch_is_refused_whole[space in the id]": Difference(
        "InvalidBatchEntryId", "taken"
    ),
    "test_malformed_batch_is_refused_whole[long id]": Difference("InvalidBatchEntryId", "taken"),
    "test_empty_batch_is_refused": Difference("EmptyBatchRequest", "an empty answer"),
    "test_batch_of_more_than_one_mebibyte_is_refused_whole": Difference(
        "BatchRequestTooLong", _NAMED
    ),
    # Queues
    "test_defaults_of_a_new_queue": Difference(
        "MaximumMessageSize, MessageRetentionPeriod, SqsManagedSseEnabled", "lacks the three"
    ),
    "test_error_codes_in_the_older_spelling": Difference(
        "x-amzn-query-error with the query protocol's code", "no such header"
    ),
    "test_bad_queue_names_are_refused": Difference(_PARAMETER, "InvalidAttributeName"),
    "test_attribute_values_out_of_range_are_refused[VisibilityTimeout-43201]": Difference(
        "0 to 43,200", "taken"
    ),
    "test_attribute_values_out_of_range_are_refused[DelaySeconds-901]": Difference(
        "0 to 900", "taken"
    ),
    "test_attribute_values_out_of_range_are_refused[MessageRetentionPeriod-59]": Difference(
        "60 to 1,209,600", "taken"
    ),
    "test_attribute_values_out_of_range_are_refused[MaximumMessageSize-1048577]": Difference(
        "1,024 to 1,048,576", "taken"
    ),
    "test_attribute_values_out_of_range_are_refused[VisibilityTimeout-soon]": Difference(
        "InvalidAttributeValue", _PARAMETER
    ),
    "test_unknown_attribute_is_refused": Difference("InvalidAttributeName", "taken"),
    "test_list_of_no_queues": Difference("no QueueUrls", "an empty list"),
    "test_queues_are_listed_in_pages": Difference("MaxResults limits a page", "one page"),
    "test_second_purge_within_a_minute_is_refused": Difference("PurgeQueueInProgress", "purges"),
    "test_name_of_a_deleted_queue_is_blocked_for_a_minute": Difference(
        "QueueDeletedRecently", "makes the queue"
    ),
    "test_no_tags": Difference("no Tags", "an empty map"),
    "test_redrive_policy_needs_a_queue_that_exists": Difference(_PARAMETER, "QueueDoesNotExist"),
    "test_max_receive_count_out_of_range_is_refused": Difference(_PARAMETER, _NAMED),
    # Dead letter queues and move tasks
    "test_empty_redrive_policy_ends_it": Difference("takes the policy off", "refused"),
    "test_moved_message_starts_anew": Difference("a new MessageId", "the old one"),
    "test_handle_of_a_move_task_is_shown_while_it_runs": Difference(
        "TaskHandle only while RUNNING", "always"
    ),
    "test_running_move_task_can_be_cancelled": Difference(
        "listed as CANCELLED", "forgotten once it is cancelled"
    ),
    "test_second_move_task_of_a_source_is_refused": Difference(_PARAMETER, "UnsupportedOperation"),
    "test_move_task_needs_a_dlq": Difference(_PARAMETER, "503 after 20 s", hangs=True),
    "test_move_task_of_an_unknown_queue_is_refused": Difference(
        "ResourceNotFoundException", "QueueDoesNotExist"
    ),
    "test_unknown_task_handle_is_refused": Difference(_PARAMETER, "ResourceNotFoundException"),
    # Visibility
    "test_visibility_out_of_range_is_refused": Difference("0 to 43,200", "taken"),
    "test_second_delete_succeeds": Difference("succeeds", "ReceiptHandleIsInvalid"),
    "test_visibility_of_a_deleted_message_is_refused": Difference(
        _PARAMETER, "ReceiptHandleIsInvalid"
    ),
    "test_visibility_of_a_visible_message_is_refused": Difference(
        "MessageNotInflight", "hides it again"
    ),
    "test_twelve_hours_count_from_the_receive": Difference(
        "43,200 s in all from the receive", "each change may ask for 12 h anew"
    ),
    "test_poller_that_left_swallows_nothing": Difference(
        "a message stays until a consumer gets it", "hands it to the closed connection"
    ),
    # FIFO queues
    "test_new_delay_holds_for_messages_that_are_there": Difference(
        "a changed delay is retroactive", "holds for new messages only"
    ),
    "test_handle_expires_with_the_visibility_timeout": Difference(
        _PARAMETER, "ReceiptHandleIsInvalid"
    ),
    "test_expired_handle_in_a_batch": Difference("ReceiptHandleIsInvalid", "deletes the message"),
    "test_dlq_is_of_the_same_type": Difference(_PARAMETER, "taken"),
    "test_move_task_brings_fifo_messages_back_in_order": Difference(
        "moves them", "COMPLETED with none moved"
    ),
    "test_move_task_to_another_type_is_refused": Difference(_PARAMETER, "taken"),
    "test_suffix_and_attribute_go_together": Difference(_PARAMETER, "InvalidAttributeName"),
    "test_attributes_of_a_new_fifo_queue": Difference(
        "DeduplicationScope and FifoThroughputLimit", "lacks the two"
    ),
    "test_high_throughput_is_shown": Difference("can be set", "InvalidAttributeName"),
    "test_bad_fifo_attributes_are_refused[FifoQueue-false]": Difference(
        "InvalidAttributeValue", "taken"
    ),
    "test_bad_fifo_attributes_are_refused": Difference(
        "InvalidAttributeValue", "InvalidAttributeName"
    ),
    "test_standard_queue_has_no_fifo_attributes[FifoQueue-true]": Difference(
        "InvalidAttributeName", "taken"
    ),
    "test_batch_with_an_entry_without_ids_is_refused_whole": Difference(
        "the whole batch", "fails the entry alone"
    ),
    "test_sequence_numbers_grow": Difference("20 digits", "counts from 0"),
    "test_duplicates_inside_a_batch": Difference("SequenceNumber of each entry", "none in a batch"),
    "test_scope_of_deduplication_can_be_the_group": Difference(
        "ids of each group for themselves", "of the queue"
    ),
    "test_attempt_is_answered_again": Difference(
        "no second receive", "ApproximateReceiveCount grows"
    ),
    "test_attempt_is_over_once_a_message_was_touched[delete]": Difference(_PARAMETER, "a 500"),
    "test_attempt_is_over_once_a_message_was_touched[hide]": Difference(_PARAMETER, "answered"),
    "test_standard_queue_passes_over_attempts": Difference("takes it", _PARAMETER),
}
