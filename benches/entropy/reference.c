/*
 * What libjpeg-turbo reads from a JPEG's entropy-coded data.
 *
 * Enters: a whole JPEG in memory. Leaves: its quantised coefficients, where asked for. An error or
 * a warning of libjpeg ends the call; setjmp stays in this file. Never: I/O, global state.
 */
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <jpeglib.h>

struct reader {
  struct jpeg_decompress_struct info;
  struct jpeg_error_mgr errors;
  jmp_buf escape;
};

static void on_error(j_common_ptr info) {
  longjmp(((struct reader *)info->client_data)->escape, 1);
}

static void on_message(j_common_ptr info, int level) {
  if (level < 0)
    on_error(info);
}

/* Reads all coefficients into memory of libjpeg's, and copies the blocks that are part of the
 * picture to `out`, component by component, row by row, 64 values in natural order each. With
 * out == NULL nothing is copied. Returns 0, or 1 where the file is damaged or `out_blocks` is
 * not the number of blocks. */
int loaderd_entropy_reference(const uint8_t *data, size_t size, int16_t *const out,
                              size_t out_blocks) {
  struct reader reader;
  memset(&reader, 0, sizeof(reader));
  reader.info.err = jpeg_std_error(&reader.errors);
  reader.errors.error_exit = on_error;
  reader.errors.emit_message = on_message;
  reader.info.client_data = &reader;
  if (setjmp(reader.escape)) {
    jpeg_destroy_decompress(&reader.info);
    return 1;
  }
  jpeg_create_decompress(&reader.info);
  jpeg_mem_src(&reader.info, data, size);
  jpeg_read_header(&reader.info, TRUE);
  jvirt_barray_ptr *arrays = jpeg_read_coefficients(&reader.info);
  int status = 0;
  int16_t *to = out;
  if (out != NULL) {
    size_t count = 0;
    for (int c = 0; c < reader.info.num_components; c++) {
      const jpeg_component_info *component = &reader.info.comp_info[c];
      count += (size_t)component->width_in_blocks * component->height_in_blocks;
    }
    status = count != out_blocks;
    for (int c = 0; status == 0 && c < reader.info.num_components; c++) {
      const jpeg_component_info *component = &reader.info.comp_info[c];
      for (JDIMENSION y = 0; y < component->height_in_blocks; y++) {
        JBLOCKARRAY row = (*reader.info.mem->access_virt_barray)(
            (j_common_ptr)&reader.info, arrays[c], y, 1, FALSE);
        size_t values = (size_t)component->width_in_blocks * DCTSIZE2;
        memcpy(to, row[0][0], values * sizeof(int16_t));
        to += values;
      }
    }
  }
  jpeg_destroy_decompress(&reader.info);
  return status;
}
