/*-------------------------------------------------------------------------
 *
 * stat_file.h
 *	  The file that keeps the counters while the server is down.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_STAT_FILE_H
#define SAGA_STAT_FILE_H

/* Writing: nothing is there unless all of it is. */
extern bool saga_stat_file_create(void);
extern void saga_stat_file_put(const void *data, Size size);
extern void saga_stat_file_finish(void);

/* Reading, once: false if there is no file, or an invalid one. */
extern bool saga_stat_file_open(void);
extern bool saga_stat_file_get(void *data, Size size);
extern void saga_stat_file_close(void);

#endif							/* SAGA_STAT_FILE_H */
