/*-------------------------------------------------------------------------
 *
 * sender.h
 *	  The process that canceled what this one does, or ended it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_SENDER_H
#define SAGA_SENDER_H

typedef enum SagaSender
{
	SAGA_SENDER_NOBODY,
	SAGA_SENDER_ITSELF,
	SAGA_SENDER_ANOTHER
} SagaSender;

extern void saga_sender_init(void);
extern void saga_sender_forget_cancel(void);
extern SagaSender saga_sender_of_cancel(void);
extern SagaSender saga_sender_of_end(void);

#endif							/* SAGA_SENDER_H */
