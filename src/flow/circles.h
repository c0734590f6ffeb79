/*-------------------------------------------------------------------------
 *
 * circles.h
 *	  Steps of a saga that wait for each other.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_CIRCLES_H
#define SAGA_CIRCLES_H

#include "flow/gates.h"

/* By a step's index: the number of the circle that it is in; 0: none. */
typedef int *SagaCircles;

extern SagaCircles saga_circles_find(const SagaGates *gates);
extern char *saga_circles_words(const SagaGates *gates, SagaCircles circles, int number);
extern void saga_circles_refuse(const SagaGates *gates, SagaCircles circles, int index);

#endif							/* SAGA_CIRCLES_H */
