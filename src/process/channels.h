/*-------------------------------------------------------------------------
 *
 * channels.h
 *	  Announcing again what listeners have not claimed.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_CHANNELS_H
#define SAGA_CHANNELS_H

#include "datatype/timestamp.h"

extern TimestampTz saga_channels_turn(TimestampTz now);
extern void saga_channels_dispatched(TimestampTz now);
extern void saga_channels_read_again(void);
extern void saga_channels_forget_pauses(void);

#endif							/* SAGA_CHANNELS_H */
