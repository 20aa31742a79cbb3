"""Keys of encoders and what stands behind them that change nothing beside the other keys.

Each line: model types, why, and the keys.
"""

from __future__ import annotations

from tests.models.beside import each_key

_LINES = (
    (
        "openai_privacy_filter",
        "the classes have no logits",
        "tie_word_embeddings",
    ),
    (
        "xmod",
        "which of the languages is read where a text says none",
        "default_language",
    ),
    (
        "blip",
        "of other classes, or overwritten by the tower's width",
        "encoder_hidden_size image_text_hidden_size projection_dim",
    ),
    (
        "blip encoder-decoder speech-encoder-decoder vision-encoder-decoder",
        "each half has its own",
        "tie_word_embeddings",
    ),
    (
        "speech-encoder-decoder vision-encoder-decoder",
        "of the other half of the decoder's type",
        "add_cross_attention encoder_attention_heads encoder_ffn_dim encoder_layers",
    ),
    (
        "pix2struct",
        "of the processor, of a distance beyond which all are the same, or overwritten",
        "is_vqa relative_attention_max_distance relative_attention_num_buckets tie_word_embeddings",
    ),
    (
        "vision-text-dual-encoder",
        "each half has a class without logits",
        "tie_word_embeddings",
    ),
    (
        "wav2vec2-conformer",
        "of training, of speakers, of an adapter that is off, of fixed tables",
        "adapter_kernel_size adapter_stride apply_spec_augment classifier_proj_size codevector_dim "
        "contrastive_logits_temperature ctc_loss_reduction ctc_zero_infinity "
        "diversity_loss_weight mask_feature_length mask_feature_min_masks mask_feature_prob "
        "mask_time_length mask_time_min_masks mask_time_prob max_source_positions "
        "num_adapter_layers num_codevector_groups num_codevectors_per_group num_negatives "
        "output_hidden_size proj_codevector_dim rotary_embedding_base tdnn_dilation tdnn_dim "
        "tdnn_kernel xvector_output_dim",
    ),
    (
        "vision-encoder-decoder",
        "of number formats",
        "reorder_and_upcast_attn",
    ),
    (
        "speech-encoder-decoder speecht5 wav2vec2-bert",
        "of training; of masks only their presence counts",
        "apply_spec_augment mask_feature_length mask_feature_min_masks mask_feature_prob "
        "mask_time_length mask_time_min_masks mask_time_prob",
    ),
    (
        "speech-encoder-decoder wav2vec2-bert",
        "of training, of speakers, of an adapter that is off",
        "adapter_kernel_size adapter_stride classifier_proj_size ctc_loss_reduction "
        "ctc_zero_infinity num_adapter_layers tdnn_dilation tdnn_dim tdnn_kernel "
        "xvector_output_dim",
    ),
    (
        "speech-encoder-decoder",
        "of training, and of a head",
        "codevector_dim contrastive_logits_temperature diversity_loss_weight "
        "num_codevector_groups num_codevectors_per_group num_negatives proj_codevector_dim "
        "vocab_size",
    ),
    (
        "speech-encoder-decoder wav2vec2-bert wav2vec2-conformer",
        "only classes for labels and speakers sum the layers",
        "use_weighted_layer_sum",
    ),
    (
        "speech-encoder-decoder",
        "only layers with norms first have such adapters",
        "adapter_attn_dim",
    ),
    (
        "wav2vec2-bert",
        "values of fixed tables",
        "max_source_positions rotary_embedding_base",
    ),
    (
        "speecht5",
        "of training, or of classes that speak",
        "guided_attention_loss_num_heads guided_attention_loss_scale "
        "guided_attention_loss_sigma num_mel_bins reduction_factor speaker_embedding_dim "
        "speech_decoder_postnet_kernel speech_decoder_postnet_layers "
        "speech_decoder_postnet_units speech_decoder_prenet_layers "
        "speech_decoder_prenet_units use_guided_attention_loss",
    ),
    (
        "conditional_detr dab-detr detr table-transformer yolos",
        "of training",
        "auxiliary_loss bbox_cost bbox_loss_coefficient class_cost cls_loss_coefficient "
        "dice_loss_coefficient eos_coefficient focal_alpha giou_cost giou_loss_coefficient "
        "init_xavier_std mask_loss_coefficient",
    ),
    (
        "conditional_detr detr table-transformer",
        "the network's part has its channels; two convolutions have no middle",
        "downsample_in_bottleneck num_channels",
    ),
    (
        "deformable_detr",
        "of training, or of kernels; the network's part has its channels",
        "auxiliary_loss bbox_cost bbox_loss_coefficient class_cost dice_loss_coefficient "
        "disable_custom_kernels encoder_layerdrop eos_coefficient focal_alpha giou_cost "
        "giou_loss_coefficient init_xavier_std mask_loss_coefficient num_channels "
        "return_intermediate",
    ),
    (
        "dab-detr",
        "of training, values of fixed tables; two convolutions have no middle",
        "downsample_in_bottleneck random_refpoints_xy sine_position_embedding_scale "
        "temperature_height temperature_width",
    ),
    (
        "d_fine",
        "of training, factors, or of layers behind the one that answers",
        "anchor_image_size auxiliary_loss box_noise_scale decoder_offset_scale eos_coefficient "
        "feat_strides focal_loss_alpha focal_loss_gamma label_noise_ratio layer_scale "
        "matcher_alpha matcher_bbox_cost matcher_class_cost matcher_gamma matcher_giou_cost "
        "num_denoising positional_encoding_temperature reg_scale up use_focal_loss "
        "weight_loss_bbox weight_loss_ddf weight_loss_fgl weight_loss_giou weight_loss_vfl "
        "with_box_refine",
    ),
    (
        "rf_detr",
        "of training, of kernels, and of the class that cuts objects out",
        "auxiliary_loss bbox_cost bbox_loss_coefficient class_cost class_loss_coefficient "
        "dice_loss_coefficient disable_custom_kernels eos_coefficient focal_alpha giou_cost "
        "giou_loss_coefficient intermediate_size mask_class_loss_coefficient "
        "mask_dice_loss_coefficient mask_downsample_ratio mask_loss_coefficient "
        "mask_point_sample_ratio segmentation_head_activation_function",
    ),
    (
        "aimv2 levit",
        "a bound; what stands behind the last stage, which is nothing",
        "down_ops max_logit_scale",
    ),
    (
        "cvt swiftformer vjepa2",
        "of training",
        "attention_drop_rate drop_conv_encoder_rate drop_mlp_rate drop_rate "
        "pred_zero_init_mask_tokens",
    ),
    (
        "deformable_detr",
        "in two stages queries are proposals, else there are none",
        "num_queries two_stage_num_proposals",
    ),
    (
        "deformable_detr",
        "two convolutions have no middle",
        "downsample_in_bottleneck",
    ),
    (
        "encodec",
        "which side is padded or cut; one residual layer; no chunks that overlap; one codebook is "
        "the least",
        "dilation_growth_rate overlap pad_mode sampling_rate target_bandwidths trim_right_ratio "
        "use_causal_conv",
    ),
    (
        "granite_speech kosmos-2",
        "the whole model's stands above it; of another class of queries",
        "text_config.tie_word_embeddings projector_config.vocab_size",
    ),
    (
        "timesfm",
        "values of fixed tables, and of what is left aside",
        "max_timescale min_timescale pad_val tolerance",
    ),
    (
        "timesfm2_5",
        "what the class takes of its answers; values of positions",
        "decode_index infer_is_positive max_position_embeddings use_continuous_quantile_head",
    ),
    (
        "vivit",
        "of the bare class",
        "pooler_act pooler_output_size",
    ),
    (
        "poolformer",
        "the class reads the lists alone",
        "patch_size stride",
    ),
    (
        "mobilevit mobilenet_v2",
        "of a class that is not read; which side is padded",
        "aspp_out_channels atrous_rates semantic_loss_ignore_index tf_padding",
    ),
    (
        "align",
        "a first value; of training, what follows from the lists, and means of one part",
        "temperature_init_value vision_config.batch_norm_momentum vision_config.drop_connect_rate "
        "vision_config.hidden_dim vision_config.num_hidden_layers",
    ),
    (
        "efficientnet",
        "of training, or what follows from the lists",
        "batch_norm_momentum drop_connect_rate num_hidden_layers",
    ),
    (
        "swinv2",
        "follows from the first width",
        "hidden_size",
    ),
    (
        "dinov3_vit dinov2_with_registers",
        "values of scales, of training, and of stages that other models read",
        "apply_layernorm layerscale_value pos_embed_jitter pos_embed_rescale pos_embed_shift "
        "reshape_hidden_states",
    ),
    (
        "beit",
        "of heads that segment images, and of masks that only training draws",
        "auxiliary_channels auxiliary_concat_input auxiliary_loss_weight auxiliary_num_convs "
        "pool_scales semantic_loss_ignore_index use_auxiliary_head vocab_size",
    ),
    (
        "eomt eomt_dinov3",
        "a first value, and of training",
        "layerscale_value pos_embed_jitter pos_embed_rescale pos_embed_shift",
    ),
    (
        "hiera",
        "of the decoder that only training has, of training, and a first value",
        "decoder_depth decoder_hidden_size decoder_num_heads layer_norm_init mask_ratio "
        "normalize_pixel_loss",
    ),
    (
        "swin2sr zoedepth",
        "factors",
        "attractor_alpha attractor_gamma img_range max_temp min_temp",
    ),
    (
        "dpt zoedepth",
        "of heads that segment images",
        "backbone_config.auxiliary_channels backbone_config.auxiliary_concat_input "
        "backbone_config.auxiliary_loss_weight backbone_config.auxiliary_num_convs "
        "backbone_config.pool_scales backbone_config.semantic_loss_ignore_index "
        "backbone_config.use_auxiliary_head backbone_config.vocab_size",
    ),
    (
        "videomae",
        "of the class for training",
        "decoder_hidden_size decoder_intermediate_size decoder_num_attention_heads "
        "decoder_num_hidden_layers norm_pix_loss",
    ),
    (
        "glpn",
        "a factor",
        "max_depth",
    ),
    (
        "vits",
        "factors, bounds and rates; of durations that are not drawn",
        "duration_predictor_filter_channels duration_predictor_tail_bound leaky_relu_slope "
        "noise_scale noise_scale_duration sampling_rate speaking_rate",
    ),
    (
        "speecht5_hifigan",
        "a factor, and a rate",
        "leaky_relu_slope sampling_rate",
    ),
    (
        "mimi",
        "which side is padded or cut; of sounds in parts; scales; steps follow the rate",
        "layer_scale_initial_scale pad_mode sampling_rate trim_right_ratio use_causal_conv "
        "use_streaming",
    ),
    (
        "colpali colqwen2",
        "the parts have their own; there are no logits",
        "vlm_config.hidden_size vlm_config.tie_word_embeddings vlm_config.vocab_size",
    ),
    (
        "fsmt",
        "names of languages",
        "langs",
    ),
    (
        "vilt",
        "any number below zero is no choice; the class ties its logits; of another class",
        "max_image_length num_images tie_word_embeddings",
    ),
    (
        "xclip",
        "a factor",
        "prompt_alpha",
    ),
    (
        "vitpose",
        "of experts that there are none of, and of the simple head",
        "part_features scale_factor",
    ),
    (
        "upernet",
        "of training",
        "auxiliary_loss_weight loss_ignore_index",
    ),
    (
        "dac",
        "of training, or what a second of sound is",
        "codebook_loss_weight commitment_loss_weight sampling_rate",
    ),
    (
        "grounding-dino",
        "of training or kernels; the published processor's size stands above the network's",
        "auxiliary_loss bbox_cost bbox_loss_coefficient class_cost disable_custom_kernels "
        "focal_alpha fusion_droppath giou_cost giou_loss_coefficient "
        "positional_embedding_temperature backbone_config.image_size "
        "text_config.tie_word_embeddings",
    ),
    (
        "mask2former maskformer",
        "of training",
        "class_weight cross_entropy_weight dice_weight ignore_value importance_sample_ratio "
        "init_xavier_std mask_weight no_object_weight oversample_ratio train_num_points",
    ),
    (
        "mask2former",
        "of training; other widths are projected either way",
        "use_auxiliary_loss enforce_input_projection",
    ),
    (
        "maskformer",
        "of DETR's encoder and network, which are no part of it, and of training",
        "bbox_cost bbox_loss_coefficient class_cost decoder_layerdrop dice_loss_coefficient "
        "dilation encoder_attention_heads encoder_ffn_dim encoder_layerdrop encoder_layers "
        "eos_coefficient giou_cost giou_loss_coefficient mask_loss_coefficient num_channels "
        "num_attention_heads num_hidden_layers position_embedding_type",
    ),
    (
        "swin",
        "follows from the first width",
        "hidden_size",
    ),
    (
        "dpt",
        "of classes and stems that are not read",
        "auxiliary_loss_weight backbone_featmap_shape neck_ignore_stages "
        "semantic_loss_ignore_index use_auxiliary_head",
    ),
    (
        "depth_anything prompt_depth_anything",
        "a factor",
        "max_depth",
    ),
    (
        "vit_mae",
        "of training",
        "norm_pix_loss",
    ),
    (
        "clipseg",
        "the class does not read it",
        "decoder_hidden_act",
    ),
    (
        "luke",
        "its logits have a matrix of their own either way",
        "tie_word_embeddings",
    ),
    (
        "instructblip",
        "the class asks the text part's type",
        "use_decoder_only_language_model",
    ),
    (
        "altclip chinese_clip",
        "in the tower: the whole model has its own",
        "vision_config.projection_dim",
    ),
    (
        "bros",
        "a factor, and labels of a class that is not read",
        "bbox_scale n_relations",
    ),
    (
        "markuplm",
        "numbers of words",
        "subs_pad_id tag_pad_id",
    ),
    (
        "layoutlmv3",
        "distances beyond are one row of a table as long",
        "max_rel_2d_pos max_rel_pos",
    ),
    (
        "florence2",
        "a fixed table; in the text part: the whole model's stands above it",
        "max_temporal_embeddings tie_word_embeddings",
    ),
    (
        "clap",
        "of parts that are off, or what the whole file says for its parts",
        "aff_block_r fusion_type hidden_size num_classes num_hidden_layers projection_dim "
        "projection_hidden_act",
    ),
    (
        "musicgen",
        "of the decoder of the text's type, or how many sounds",
        "add_cross_attention audio_channels num_decoder_layers scale_decoder_outputs "
        "tie_word_embeddings",
    ),
    (
        "musicgen",
        "of a codec that rests in memory",
        "chunk_length_s codebook_dim codebook_size dilation_growth_rate normalize overlap "
        "pad_mode sampling_rate target_bandwidths trim_right_ratio use_causal_conv",
    ),
    (
        "sam_hq",
        "of masks that are given; other keys stand above the ratios; a first value",
        "prompt_encoder_config.hidden_act prompt_encoder_config.patch_size "
        "vision_config.mlp_ratio vision_config.scale",
    ),
    (
        "sam2",
        "which mask is returned; the class does not read it",
        "dynamic_multimask_stability_delta dynamic_multimask_stability_thresh "
        "dynamic_multimask_via_stability hidden_act scale",
    ),
    (
        "sam2",
        "nothing stands above the last stage; each stage has its heads",
        "fpn_top_down_levels num_attention_heads num_query_pool_stages",
    ),
    (
        "sam3_vision_model",
        "what follows from other sizes; a list of one number is that again",
        "backbone_feature_sizes global_attn_indexes",
    ),
)

#: (model type, key or path of a key) to the reason.
BESIDE = each_key(_LINES)
#: Small files of these families.
NAMES = (
    "bert2bert-small", "blip-asked-small", "blip-small", "bros-small", "chinese-clip-small",
    "clap-small", "clipseg-small", "convbert-small", "depth-anything-small", "detr-small",
    "detr-masks-small",
    "donut-small", "dpt-small", "florence2-small", "instructblip-small", "layoutlmv3-small",
    "lilt-small", "luke-small", "markuplm-small", "mobilebert-small", "musicgen-small",
    "owlv2-small", "owlvit-small", "sam2-small", "sam3-vision-small", "speech-dec-small",
    "speech2text-small", "speecht5-small", "squeezebert-small", "table-transformer-small",
    "trocr-small", "vit-gpt2-small", "vit-mae-small", "w2v-bert-adapted-small",
    "w2v-bert-small", "yolos-small",
    "pix2struct-small", "dual-small", "w2v-conformer-small",
    "deformable-detr-small", "deformable-detr-staged-small", "mask2former-small",
    "maskformer-small", "grounding-dino-small", "encodec-small", "dac-small",
    "swin-stages-small", "resnet-stages-small", "upernet-small",
    "vitpose-small",
    "granite-speech-small", "kosmos-2-small", "timesfm-small",
    "timesfm-2.5-small", "align-small",
    "vivit-small", "timesformer-small", "poolformer-small", "pvt2-small", "mobilevit-small",
    "convnext-bare-small", "convnextv2-small", "segformer-small", "regnet-small",
    "efficientnet-small", "mobilenet-v2-small", "swinv2-small", "dinov3-small",
    "dinov2-registers-small", "deit-small", "videomae-small", "ast-small",
    "vilt-small", "xclip-small",
    "fsmt-small", "altclip-small", "pvt-small", "glpn-small",
    "vits-small", "mimi-small", "speecht5-speaks-small", "hifigan-small",
    "colpali-small", "colqwen2-small",
    "bit-small", "dpt-hybrid-small", "conditional-detr-small",
    "dinov2-stages-small", "dinov3-stages-small", "beit-stages-small", "dpt-beit-small",
    "dpt-hybrid-bare-small", "hgnet-small", "d-fine-small", "dab-detr-small", "rf-detr-small",
    "aimv2-small", "focalnet-small", "levit-small", "cvt-small", "swiftformer-small",
    "vjepa2-small", "zoedepth-small", "swin2sr-small", "sam-hq-small",
    "prompt-depth-anything-small", "eomt-small", "eomt-dinov3-small", "hiera-small",
    "hiera-stages-small",
    "xmod-small", "roc-bert-small",
    "privacy-filter-small", "ultrabert-small", "embedding-gemma2-small",
)  # fmt: skip
