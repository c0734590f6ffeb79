/*-------------------------------------------------------------------------
 *
 * version.h
 *	  Does the extension that is created here fit this library?
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_VERSION_H
#define SAGA_VERSION_H

extern const char *saga_version_misfit(const char **hint);
extern void saga_version_refuse_newer(const char *version);

#endif							/* SAGA_VERSION_H */
