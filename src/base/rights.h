/*-------------------------------------------------------------------------
 *
 * rights.h
 *	  Rights: which roles may reach a saga, and which may register what.
 *
 *-------------------------------------------------------------------------
 */
#ifndef SAGA_RIGHTS_H
#define SAGA_RIGHTS_H

/* Parts of a saga that a role may see. */
typedef enum SagaReach
{
	SAGA_REACH_NOTHING = 0,
	SAGA_REACH_OUTLINE,			/* rows, with payloads and errors nulled */
	SAGA_REACH_READ,			/* everything */
	SAGA_REACH_OPERATE,			/* and settle what is parked */
	SAGA_REACH_OWN				/* and go forward */
} SagaReach;

extern bool saga_rights_is_dba(void);
extern bool saga_rights_has_rights_of(Oid owner);
extern bool saga_rights_name_has_rights_of(const char *role, Oid owner);
extern bool saga_rights_may_call(Oid owner, const text *owner_name);
extern bool saga_rights_sees_all(void);
extern SagaReach saga_rights_reach(Oid owner, const text *owner_name);
extern const char *saga_rights_why_gone(Oid owner, const text *owner_name);
extern const char *saga_rights_role_name(Oid role);
extern void saga_rights_check_member(Oid role);
extern void saga_rights_check_can_run_sql(Oid role);
extern const char *saga_rights_why_not_run(Oid role, const char *name);
extern const char *saga_rights_why_not_told(Oid role, Oid owner,
											const text *owner_name);

#endif							/* SAGA_RIGHTS_H */
