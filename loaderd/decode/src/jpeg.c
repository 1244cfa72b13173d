/*
 * The only code of loaderd that calls libjpeg.
 *
 * Enters: a whole JPEG in memory, a scale and a region. Leaves: rows of RGB, 8 bits
 * a channel, whatever the file's inks and bits are; or its coefficients in another JPEG;
 * or, the other way, pixels in and a JPEG out. Whoever calls libjpeg arms its own setjmp, so
 * that libjpeg's way out of an error ends here and never crosses Rust.
 * Never: I/O, threads, global state.
 */
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>
#include <jerror.h>

/* What a call returned; src/jpeg.rs has the same numbers. */
enum {
  LOADERD_JPEG_OK = 0,
  LOADERD_JPEG_CORRUPT = 1,
  LOADERD_JPEG_TRUNCATED = 2,
  LOADERD_JPEG_TOO_MANY_SCANS = 3,
  LOADERD_JPEG_NOT_WRITTEN = 4,
};

/* Colour spaces that src/jpeg.rs tells apart. */
enum {
  LOADERD_JPEG_OTHER = 0,
  LOADERD_JPEG_KNOWN = 1,
};

struct loaderd_jpeg_header {
  uint32_t width;
  uint32_t height;
  uint32_t colour;             /* one of the colour spaces above */
  uint32_t chroma_columns;     /* image columns that share one chroma sample */
  uint32_t multiple_scans;     /* all coefficients are buffered before the first row */
  uint64_t coefficient_bytes;  /* of the whole image, wherever they are kept */
  uint64_t scan_offset;        /* where the first scan's data start */
};

/* What the other side needs to read a scan's coefficients itself; src/jpeg/hook.rs has the
 * same. */
struct loaderd_jpeg_table {
  const uint8_t *counts;   /* of the lengths 1 to 16 */
  const uint8_t *symbols;  /* 256 */
};

struct loaderd_jpeg_scan {
  const uint8_t *data;  /* up to the file's end */
  size_t size;
  uint32_t interval;  /* MCUs between restart markers, or 0 */
  uint32_t columns;   /* MCUs of a row */
  uint32_t wanted;    /* of those, from the first to the last that rows are made of */
  uint32_t blocks;    /* of an MCU */
  uint8_t component[D_MAX_BLOCKS_IN_MCU];  /* of each block, among the scan's */
  uint8_t dc[D_MAX_BLOCKS_IN_MCU];         /* tables of each block */
  uint8_t ac[D_MAX_BLOCKS_IN_MCU];
  struct loaderd_jpeg_table dc_tables[NUM_HUFF_TBLS];  /* null where no block uses them */
  struct loaderd_jpeg_table ac_tables[NUM_HUFF_TBLS];
};

/* Reads one MCU's coefficients into zeroed blocks; null where they are not wanted. Returns
 * one of the faults below. */
typedef int loaderd_jpeg_reader(void *state, int16_t (**blocks)[DCTSIZE2], uint8_t *found,
                                uint8_t *due);

enum {
  LOADERD_JPEG_NO_FAULT = 0,
  LOADERD_JPEG_BAD_CODE = 1,
  LOADERD_JPEG_RAN_DRY = 2,     /* at the marker *found, or 0 */
  LOADERD_JPEG_NO_RESTART = 3,  /* but the marker *found, or 0, where number *due is due */
};

/* The public part of libjpeg's entropy decoders, which jpeglib.h declares but does not
 * show: its first members, as jpegint.h has had them since version 6. */
struct jpeg_entropy_decoder {
  void (*start_pass)(j_decompress_ptr info);
  boolean (*decode_mcu)(j_decompress_ptr info, JBLOCKROW *blocks);
};

/* Of the two precisions that libjpeg decodes here, the one that needs functions of its
 * own and 16 bits a sample. */
#define LONG_BITS 12
#define LONG_MAX_SAMPLE 4095

/* A destination in memory. jpeg_mem_dest tells where its buffer lies only once all is
 * written, so that after an error nobody could free it. */
struct growing {
  struct jpeg_destination_mgr manager;
  uint8_t *bytes;
  size_t room;
};

#define GROWING_START_BYTES ((size_t)1 << 16)

static void growing_start(j_compress_ptr info) {
  struct growing *out = (struct growing *)info->dest;
  out->bytes = malloc(GROWING_START_BYTES);
  if (out->bytes == NULL)
    ERREXIT1(info, JERR_OUT_OF_MEMORY, 0);
  out->room = GROWING_START_BYTES;
  out->manager.next_output_byte = out->bytes;
  out->manager.free_in_buffer = out->room;
}

/* Called when the buffer is full, whatever free_in_buffer says. */
static boolean growing_full(j_compress_ptr info) {
  struct growing *out = (struct growing *)info->dest;
  uint8_t *larger = realloc(out->bytes, out->room * 2);
  if (larger == NULL)
    ERREXIT1(info, JERR_OUT_OF_MEMORY, 0);
  out->bytes = larger;
  out->manager.next_output_byte = larger + out->room;
  out->manager.free_in_buffer = out->room;
  out->room *= 2;
  return TRUE;
}

static void growing_end(j_compress_ptr info) { (void)info; }

static void growing_into(j_compress_ptr info, struct growing *out) {
  memset(out, 0, sizeof(*out));
  out->manager.init_destination = growing_start;
  out->manager.empty_output_buffer = growing_full;
  out->manager.term_destination = growing_end;
  info->dest = &out->manager;
}

/* The bytes written, which are the caller's from now on. */
static uint8_t *growing_take(struct growing *out, size_t *size) {
  uint8_t *bytes = out->bytes;
  *size = out->room - out->manager.free_in_buffer;
  out->bytes = NULL;
  return bytes;
}

struct loaderd_jpeg {
  struct jpeg_decompress_struct info;
  /* The other direction, where coefficients are copied. */
  struct jpeg_compress_struct copy;
  struct growing copied;
  struct jpeg_error_mgr errors;
  struct jpeg_source_mgr source;
  struct jpeg_progress_mgr progress;
  jmp_buf escape;
  int status;
  int scans_max;
  int strict;  /* every warning is an error */
  uint32_t wanted;  /* MCUs of a row up to the last that rows are made of */
  /* Reads coefficients in libjpeg's place. */
  loaderd_jpeg_reader *reader;
  void *reader_state;
  /* One row as the file has it, where that is not 8-bit RGB; of libjpeg's pool. */
  void *strip;
  char message[JMSG_LENGTH_MAX];
};

/* client_data points at the struct that holds the error manager's jmp_buf. */
static void leave(struct loaderd_jpeg *jpeg, int status) {
  jpeg->status = status;
  (*jpeg->errors.format_message)((j_common_ptr)&jpeg->info, jpeg->message);
  longjmp(jpeg->escape, 1);
}

static void on_error(j_common_ptr info) {
  leave((struct loaderd_jpeg *)info->client_data,
        info->is_decompressor ? LOADERD_JPEG_CORRUPT : LOADERD_JPEG_NOT_WRITTEN);
}

/* Warnings about entropy-coded data mean pixels that the camera never took: they end
 * the decode. Junk between segments, odd metadata and the parameters of sequential scans, which
 * some encoders leave at zero, leave the pixels as they were. */
static void on_message(j_common_ptr info, int level) {
  struct loaderd_jpeg *jpeg = (struct loaderd_jpeg *)info->client_data;
  if (level >= 0)
    return;
  switch (info->err->msg_code) {
  case JWRN_JPEG_EOF:
    leave(jpeg, LOADERD_JPEG_TRUNCATED);
    break;
  case JWRN_HIT_MARKER:
    /* The segment ran dry. Before EOI that is a file cut short and closed again. */
    leave(jpeg, jpeg->info.unread_marker == JPEG_EOI ? LOADERD_JPEG_TRUNCATED
                                                     : LOADERD_JPEG_CORRUPT);
    break;
  case JWRN_HUFF_BAD_CODE:
  case JWRN_ARITH_BAD_CODE:
  case JWRN_MUST_RESYNC:
  case JWRN_BOGUS_PROGRESSION:
    leave(jpeg, LOADERD_JPEG_CORRUPT);
    break;
  default:
    if (jpeg->strict)
      leave(jpeg, LOADERD_JPEG_CORRUPT);
    break;
  }
}

static void be_silent(j_common_ptr info) { (void)info; }

static void on_progress(j_common_ptr info) {
  struct loaderd_jpeg *jpeg = (struct loaderd_jpeg *)info->client_data;
  if (jpeg->info.input_scan_number > jpeg->scans_max)
    leave(jpeg, LOADERD_JPEG_TOO_MANY_SCANS);
}

static void source_start(j_decompress_ptr info) { (void)info; }

/* All bytes were there from the start: whoever asks for more has read past the end. */
static boolean source_fill(j_decompress_ptr info) {
  info->err->msg_code = JWRN_JPEG_EOF;
  leave((struct loaderd_jpeg *)info->client_data, LOADERD_JPEG_TRUNCATED);
  return FALSE;
}

static void source_skip(j_decompress_ptr info, long count) {
  if (count <= 0)
    return;
  if ((size_t)count > info->src->bytes_in_buffer)
    source_fill(info);
  info->src->next_input_byte += count;
  info->src->bytes_in_buffer -= (size_t)count;
}

static void source_end(j_decompress_ptr info) { (void)info; }

struct loaderd_jpeg *loaderd_jpeg_new(void) { return calloc(1, sizeof(struct loaderd_jpeg)); }

/* Frees what libjpeg holds for the current image. Idempotent. A fresh decompressor per
 * image costs a microsecond, and keeps one image's tables out of the next. */
void loaderd_jpeg_close(struct loaderd_jpeg *jpeg) {
  if (jpeg->info.mem != NULL)
    jpeg_destroy_decompress(&jpeg->info);
  memset(&jpeg->info, 0, sizeof(jpeg->info));
  if (jpeg->copy.mem != NULL)
    jpeg_destroy_compress(&jpeg->copy);
  memset(&jpeg->copy, 0, sizeof(jpeg->copy));
  free(jpeg->copied.bytes);
  jpeg->copied.bytes = NULL;
}

void loaderd_jpeg_free(struct loaderd_jpeg *jpeg) {
  loaderd_jpeg_close(jpeg);
  free(jpeg);
}

#define TEXT_OF(token) #token
#define TEXT(macro) TEXT_OF(macro)

/* The version of the library that is linked in, such as 3.1.0. */
const char *loaderd_jpeg_library_version(void) { return TEXT(LIBJPEG_TURBO_VERSION); }

const char *loaderd_jpeg_message(const struct loaderd_jpeg *jpeg) { return jpeg->message; }

/* Reads up to the first scan. `data` must outlive the image. */
int loaderd_jpeg_open(struct loaderd_jpeg *jpeg, const uint8_t *data, size_t size,
                      uint32_t scans_max, uint64_t memory_max,
                      struct loaderd_jpeg_header *header) {
  jpeg->status = LOADERD_JPEG_OK;
  jpeg->strip = NULL;
  jpeg->strict = 0;
  jpeg->reader = NULL;
  /* All, until a crop says otherwise: who copies coefficients has none. */
  jpeg->wanted = UINT32_MAX;
  jpeg->message[0] = '\0';
  jpeg->scans_max = scans_max > INT32_MAX ? INT32_MAX : (int)scans_max;
  jpeg->info.err = jpeg_std_error(&jpeg->errors);
  jpeg->errors.error_exit = on_error;
  jpeg->errors.emit_message = on_message;
  jpeg->errors.output_message = be_silent;
  jpeg->info.client_data = jpeg;
  if (setjmp(jpeg->escape))
    return jpeg->status;

  /* Keeps err and client_data. */
  jpeg_create_decompress(&jpeg->info);
  jpeg->info.mem->max_memory_to_use = memory_max > INT64_MAX ? INT64_MAX : (long)memory_max;
  jpeg->source.next_input_byte = data;
  jpeg->source.bytes_in_buffer = size;
  jpeg->source.init_source = source_start;
  jpeg->source.fill_input_buffer = source_fill;
  jpeg->source.skip_input_data = source_skip;
  jpeg->source.resync_to_restart = jpeg_resync_to_restart;
  jpeg->source.term_source = source_end;
  jpeg->info.src = &jpeg->source;
  jpeg_read_header(&jpeg->info, TRUE);

  memset(header, 0, sizeof(*header));
  header->width = jpeg->info.image_width;
  header->height = jpeg->info.image_height;
  switch (jpeg->info.jpeg_color_space) {
  case JCS_GRAYSCALE:
  case JCS_YCbCr:
  case JCS_RGB:
  case JCS_CMYK:
  case JCS_YCCK:
    header->colour = LOADERD_JPEG_KNOWN;
    break;
  default:
    header->colour = LOADERD_JPEG_OTHER;
    break;
  }
  header->chroma_columns = jpeg->info.num_components == 1
                               ? 1 : (uint32_t)jpeg->info.max_h_samp_factor;
  header->scan_offset = (uint64_t)(jpeg->source.next_input_byte - data);
  for (int c = 0; c < jpeg->info.num_components; c++) {
    const jpeg_component_info *component = &jpeg->info.comp_info[c];
    uint64_t across = (uint64_t)component->width_in_blocks + component->h_samp_factor;
    uint64_t down = (uint64_t)component->height_in_blocks + component->v_samp_factor;
    header->coefficient_bytes += across * down * sizeof(JBLOCK);
  }
  if (jpeg_has_multiple_scans(&jpeg->info)) {
    header->multiple_scans = 1;
    jpeg->progress.progress_monitor = on_progress;
    jpeg->info.progress = &jpeg->progress;
  }
  return LOADERD_JPEG_OK;
}

static int four_inks(const struct jpeg_decompress_struct *info) {
  return info->jpeg_color_space == JCS_CMYK || info->jpeg_color_space == JCS_YCCK;
}

/* Sets the scale (`eighths` of 8), starts decoding (a multi-scan file is entropy-decoded
 * whole here) and narrows rows to hold the columns [left, left + width) of the scaled
 * image. *out_left and *out_width say which columns the rows then really hold. */
int loaderd_jpeg_start(struct loaderd_jpeg *jpeg, uint32_t eighths, uint32_t left,
                       uint32_t width, uint32_t *out_left, uint32_t *out_width) {
  if (setjmp(jpeg->escape))
    return jpeg->status;
  jpeg->info.scale_num = eighths;
  jpeg->info.scale_denom = 8;
  int inks = four_inks(&jpeg->info);
  int long_samples = jpeg->info.data_precision == LONG_BITS;
  jpeg->info.out_color_space = inks ? JCS_CMYK : JCS_RGB;
  jpeg->info.dct_method = JDCT_ISLOW;
  jpeg->info.do_fancy_upsampling = TRUE;
  /* Smoothing looks at neighbouring blocks, so a crop would differ from the whole. */
  jpeg->info.do_block_smoothing = FALSE;
  jpeg_start_decompress(&jpeg->info);
  JDIMENSION x = left, columns = width;
  if (long_samples)
    jpeg12_crop_scanline(&jpeg->info, &x, &columns);
  else
    jpeg_crop_scanline(&jpeg->info, &x, &columns);
  if (inks || long_samples) {
    size_t samples = (size_t)columns * (inks ? 4 : 3);
    jpeg->strip = (*jpeg->info.mem->alloc_large)(
        (j_common_ptr)&jpeg->info, JPOOL_IMAGE, samples * (long_samples ? sizeof(J12SAMPLE) : 1));
  }
  uint32_t mcu = jpeg->info.scale_num *
                 (jpeg->info.num_components == 1 ? 1 : (uint32_t)jpeg->info.max_h_samp_factor);
  jpeg->wanted = (x + columns + mcu - 1) / mcu;
  *out_left = x;
  *out_width = columns;
  return LOADERD_JPEG_OK;
}

/* Says how to read the coefficients of an image that was started, either way. 0 in
 * scan->blocks: libjpeg must, because they do not lie in one baseline scan of Huffman codes. */
void loaderd_jpeg_scan(struct loaderd_jpeg *jpeg, struct loaderd_jpeg_scan *scan) {
  struct jpeg_decompress_struct *info = &jpeg->info;
  memset(scan, 0, sizeof(*scan));
  if (setjmp(jpeg->escape))
    return;
  if (jpeg_has_multiple_scans(info) || info->progressive_mode ||
      info->arith_code || info->data_precision != 8 || info->unread_marker != 0)
    return;
  scan->data = jpeg->source.next_input_byte;
  scan->size = jpeg->source.bytes_in_buffer;
  scan->interval = info->restart_interval;
  scan->columns = info->MCUs_per_row;
  scan->wanted = jpeg->wanted;
  for (int block = 0; block < info->blocks_in_MCU; block++) {
    int component = info->MCU_membership[block];
    const jpeg_component_info *shape = info->cur_comp_info[component];
    const JHUFF_TBL *dc = info->dc_huff_tbl_ptrs[shape->dc_tbl_no];
    const JHUFF_TBL *ac = info->ac_huff_tbl_ptrs[shape->ac_tbl_no];
    scan->component[block] = (uint8_t)component;
    scan->dc[block] = (uint8_t)shape->dc_tbl_no;
    scan->ac[block] = (uint8_t)shape->ac_tbl_no;
    scan->dc_tables[shape->dc_tbl_no] = (struct loaderd_jpeg_table){dc->bits + 1, dc->huffval};
    scan->ac_tables[shape->ac_tbl_no] = (struct loaderd_jpeg_table){ac->bits + 1, ac->huffval};
  }
  scan->blocks = (uint32_t)info->blocks_in_MCU;
}

static boolean read_mcu(j_decompress_ptr info, JBLOCKROW *blocks) {
  struct loaderd_jpeg *jpeg = (struct loaderd_jpeg *)info->client_data;
  uint8_t found = 0, due = 0;
  switch (jpeg->reader(jpeg->reader_state, (int16_t(**)[DCTSIZE2])blocks, &found, &due)) {
  case LOADERD_JPEG_NO_FAULT:
    break;
  case LOADERD_JPEG_BAD_CODE:
    info->err->msg_code = JWRN_HUFF_BAD_CODE;
    leave(jpeg, LOADERD_JPEG_CORRUPT);
    break;
  case LOADERD_JPEG_RAN_DRY:
    info->err->msg_code = JWRN_HIT_MARKER;
    leave(jpeg, found == 0 || found == JPEG_EOI ? LOADERD_JPEG_TRUNCATED : LOADERD_JPEG_CORRUPT);
    break;
  default:
    info->err->msg_code = JWRN_MUST_RESYNC;
    info->err->msg_parm.i[0] = found;
    info->err->msg_parm.i[1] = due;
    leave(jpeg, found == 0 ? LOADERD_JPEG_TRUNCATED : LOADERD_JPEG_CORRUPT);
    break;
  }
  return TRUE;
}

/* From now on `reader` reads the coefficients of the scan that loaderd_jpeg_scan told of. */
void loaderd_jpeg_read_with(struct loaderd_jpeg *jpeg, loaderd_jpeg_reader *reader,
                            void *state) {
  jpeg->reader = reader;
  jpeg->reader_state = state;
  jpeg->info.entropy->decode_mcu = read_mcu;
}

/* A 12-bit sample as a byte, rounded. */
static uint8_t shortened(J12SAMPLE sample) {
  int value = sample < 0 ? 0 : sample > LONG_MAX_SAMPLE ? LONG_MAX_SAMPLE : sample;
  return (uint8_t)((value * 255 + LONG_MAX_SAMPLE / 2) / LONG_MAX_SAMPLE);
}

/* a * b / 255, rounded, as Pillow's MULDIV255. */
static int scaled_by(int a, int b) {
  int product = a * b + 128;
  return ((product >> 8) + product) >> 8;
}

/* One pixel of inks to RGB, as Pillow's convert("RGB") does it. Inks are taken as Adobe
 * writes them, 255 for none, which Pillow takes for granted, too. */
static void mix(const uint8_t inks[4], uint8_t rgb[3]) {
  int paper = inks[3];
  for (int channel = 0; channel < 3; channel++)
    rgb[channel] = (uint8_t)(paper - scaled_by(255 - inks[channel], paper));
}

/* Turns the row in the strip into `width` pixels of RGB. */
static void convert_strip(const struct loaderd_jpeg *jpeg, uint8_t *out) {
  size_t width = jpeg->info.output_width;
  if (jpeg->info.data_precision != LONG_BITS) {
    const uint8_t *inks = jpeg->strip;
    for (size_t x = 0; x < width; x++)
      mix(inks + 4 * x, out + 3 * x);
    return;
  }
  const J12SAMPLE *samples = jpeg->strip;
  if (!four_inks(&jpeg->info)) {
    for (size_t i = 0; i < 3 * width; i++)
      out[i] = shortened(samples[i]);
    return;
  }
  for (size_t x = 0; x < width; x++) {
    uint8_t inks[4];
    for (int i = 0; i < 4; i++)
      inks[i] = shortened(samples[4 * x + i]);
    mix(inks, out + 3 * x);
  }
}

/* Writes `rows` rows from row `top` of the scaled image to `out`, `stride` bytes apart.
 * What lies below is never decoded. */
int loaderd_jpeg_read(struct loaderd_jpeg *jpeg, uint32_t top, uint32_t rows, uint8_t *out,
                      size_t stride) {
  if (setjmp(jpeg->escape))
    return jpeg->status;
  JDIMENSION end = top + rows;
  int long_samples = jpeg->info.data_precision == LONG_BITS;
  if (top > 0 && long_samples)
    jpeg12_skip_scanlines(&jpeg->info, top);
  else if (top > 0)
    jpeg_skip_scanlines(&jpeg->info, top);
  while (jpeg->strip != NULL && jpeg->info.output_scanline < end) {
    uint8_t *row = out + (size_t)(jpeg->info.output_scanline - top) * stride;
    J12SAMPROW long_line = jpeg->strip;
    JSAMPROW line = jpeg->strip;
    JDIMENSION count = long_samples ? jpeg12_read_scanlines(&jpeg->info, &long_line, 1)
                                    : jpeg_read_scanlines(&jpeg->info, &line, 1);
    if (count == 1)
      convert_strip(jpeg, row);
  }
  while (jpeg->info.output_scanline < end) {
    JSAMPROW lines[16];
    JDIMENSION count = end - jpeg->info.output_scanline;
    if (count > 16)
      count = 16;
    for (JDIMENSION i = 0; i < count; i++)
      lines[i] = out + (size_t)(jpeg->info.output_scanline - top + i) * stride;
    jpeg_read_scanlines(&jpeg->info, lines, count);
  }
  return LOADERD_JPEG_OK;
}

/* Starts the opened image for loaderd_jpeg_copy, in libjpeg's mode that keeps all coefficients
 * and reads none of them yet. From now on every warning is an error. */
int loaderd_jpeg_start_copy(struct loaderd_jpeg *jpeg) {
  if (setjmp(jpeg->escape))
    return jpeg->status;
  jpeg->strict = 1;
  jpeg->info.buffered_image = TRUE;
  jpeg_start_decompress(&jpeg->info);
  return LOADERD_JPEG_OK;
}

/* Reads the coefficients of an image that was started for it, and writes them as a baseline
 * JPEG in one scan, with Huffman tables of its own and a restart marker every `interval` MCUs,
 * but without APPn and COM segments. *out is for loaderd_jpeg_release. */
int loaderd_jpeg_copy(struct loaderd_jpeg *jpeg, uint32_t interval, uint8_t **out,
                      size_t *out_size) {
  if (setjmp(jpeg->escape))
    return jpeg->status;
  for (int state = JPEG_SUSPENDED; state != JPEG_REACHED_EOI;) {
    on_progress((j_common_ptr)&jpeg->info);
    state = jpeg_consume_input(&jpeg->info);
    /* Who reads in libjpeg's place reads the only scan, and leaves libjpeg at its start. */
    if (state == JPEG_SCAN_COMPLETED && jpeg->reader != NULL)
      break;
  }
  jvirt_barray_ptr *coefficients = jpeg_read_coefficients(&jpeg->info);
  jpeg->copy.err = &jpeg->errors;
  jpeg->copy.client_data = jpeg;
  jpeg_create_compress(&jpeg->copy);
  growing_into(&jpeg->copy, &jpeg->copied);
  jpeg_copy_critical_parameters(&jpeg->info, &jpeg->copy);
  jpeg->copy.write_JFIF_header = FALSE;
  jpeg->copy.write_Adobe_marker = FALSE;
  jpeg->copy.optimize_coding = TRUE;
  jpeg->copy.restart_interval = interval;
  jpeg_write_coefficients(&jpeg->copy, coefficients);
  jpeg_finish_compress(&jpeg->copy);
  *out = growing_take(&jpeg->copied, out_size);
  return LOADERD_JPEG_OK;
}

struct loaderd_jpeg_layout {
  uint32_t width;
  uint32_t height;
  uint32_t components;  /* 1: `pixels` hold grey; 3: RGB; 4: CMYK, 255 for no ink */
  uint32_t direct;      /* the file's colours are those of `pixels`, without YCC */
  uint32_t bits;        /* 8, or 12: `pixels` are then stretched to 0..4095 */
  uint32_t quality;     /* 1 to 100 */
  uint32_t luma_h;      /* sampling factors of the first component; others have 1x1 */
  uint32_t luma_v;
  uint32_t progressive;
  uint32_t optimise;
  uint32_t separate_scans; /* sequential, but one scan for each component */
  uint32_t arithmetic;
  uint32_t restart_rows;
  uint32_t restart_mcus;  /* of no effect where restart_rows is not 0 */
};

struct compressor {
  /* One row of 12-bit samples, or NULL; of libjpeg's pool. */
  J12SAMPROW strip;
  struct jpeg_compress_struct info;
  struct growing out;
  struct jpeg_error_mgr errors;
  jmp_buf escape;
};

static void on_compress_error(j_common_ptr info) {
  longjmp(((struct compressor *)info->client_data)->escape, 1);
}

static void on_compress_message(j_common_ptr info, int level) {
  (void)info;
  (void)level;
}

/* Returns 0 and a buffer for loaderd_jpeg_release, or 1 and libjpeg's words in
 * `message`, which has room for JMSG_LENGTH_MAX (200) bytes. */
int loaderd_jpeg_encode(const uint8_t *pixels, const struct loaderd_jpeg_layout *layout,
                        uint8_t **out, size_t *out_size, char *message) {
  struct compressor compressor;
  jpeg_scan_info scans[4];

  memset(&compressor, 0, sizeof(compressor));
  compressor.info.err = jpeg_std_error(&compressor.errors);
  compressor.errors.error_exit = on_compress_error;
  compressor.errors.emit_message = on_compress_message;
  compressor.errors.output_message = be_silent;
  compressor.info.client_data = &compressor;
  if (setjmp(compressor.escape)) {
    (*compressor.errors.format_message)((j_common_ptr)&compressor.info, message);
    jpeg_destroy_compress(&compressor.info);
    free(compressor.out.bytes);
    return 1;
  }
  jpeg_create_compress(&compressor.info);
  growing_into(&compressor.info, &compressor.out);
  compressor.info.image_width = layout->width;
  compressor.info.image_height = layout->height;
  compressor.info.input_components = (int)layout->components;
  compressor.info.in_color_space = layout->components == 1   ? JCS_GRAYSCALE
                                   : layout->components == 3 ? JCS_RGB
                                                             : JCS_CMYK;
  compressor.info.data_precision = (int)layout->bits;
  jpeg_set_defaults(&compressor.info);
  if (layout->direct)
    jpeg_set_colorspace(&compressor.info, compressor.info.in_color_space);
  else if (layout->components == 4)
    jpeg_set_colorspace(&compressor.info, JCS_YCCK);
  jpeg_set_quality(&compressor.info, (int)layout->quality, TRUE);
  compressor.info.comp_info[0].h_samp_factor = (int)layout->luma_h;
  compressor.info.comp_info[0].v_samp_factor = (int)layout->luma_v;
  if (layout->components == 4) {
    compressor.info.comp_info[3].h_samp_factor = (int)layout->luma_h;
    compressor.info.comp_info[3].v_samp_factor = (int)layout->luma_v;
  }
  compressor.info.optimize_coding = layout->optimise != 0;
  compressor.info.arith_code = layout->arithmetic != 0;
  compressor.info.restart_in_rows = (int)layout->restart_rows;
  compressor.info.restart_interval = layout->restart_mcus;
  if (layout->progressive) {
    jpeg_simple_progression(&compressor.info);
  } else if (layout->separate_scans) {
    memset(scans, 0, sizeof(scans));
    for (int c = 0; c < (int)layout->components; c++) {
      scans[c].comps_in_scan = 1;
      scans[c].component_index[0] = c;
      scans[c].Se = 63;
    }
    compressor.info.scan_info = scans;
    compressor.info.num_scans = (int)layout->components;
  }
  jpeg_start_compress(&compressor.info, TRUE);
  size_t stride = (size_t)layout->width * layout->components;
  if (layout->bits == LONG_BITS)
    compressor.strip = (*compressor.info.mem->alloc_large)(
        (j_common_ptr)&compressor.info, JPOOL_IMAGE, stride * sizeof(J12SAMPLE));
  while (compressor.info.next_scanline < layout->height) {
    const uint8_t *row = pixels + compressor.info.next_scanline * stride;
    JSAMPROW line = (JSAMPROW)row;
    if (compressor.strip == NULL) {
      jpeg_write_scanlines(&compressor.info, &line, 1);
      continue;
    }
    for (size_t i = 0; i < stride; i++)
      compressor.strip[i] = (J12SAMPLE)((row[i] * LONG_MAX_SAMPLE + 127) / 255);
    jpeg12_write_scanlines(&compressor.info, &compressor.strip, 1);
  }
  jpeg_finish_compress(&compressor.info);
  jpeg_destroy_compress(&compressor.info);
  *out = growing_take(&compressor.out, out_size);
  return 0;
}

void loaderd_jpeg_release(uint8_t *buffer) { free(buffer); }
