/*-------------------------------------------------------------------------
 *
 * rights.c
 *	  Rights: which roles may reach a saga, and which may register what.
 *
 * The ledger itself asks nobody for rights (its tables have no grants, and
 * direct access checks none), so every entry point asks here, with the user
 * that is current: inside a SECURITY DEFINER function, the definer.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "base/compat.h"
#include "base/errors.h"
#include "base/guc.h"
#include "base/rights.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_database_d.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/syscache.h"

/* From PostgreSQL 17 on, the server runs workers as roles without LOGIN. */
#define LOGIN_NEEDED	(PG_VERSION_NUM < 170000)

/*
 * Is the role of that OID still the one of that name?  In a copy of the
 * database in another server the OID may be anybody's; and a right does not
 * move with a name either.
 */
static bool
is_still(Oid role, const text *name)
{
	HeapTuple	tuple = SearchSysCache1(AUTHOID, ObjectIdGetDatum(role));
	bool		same = false;

	if (HeapTupleIsValid(tuple))
	{
		const char *now = NameStr(((Form_pg_authid) GETSTRUCT(tuple))->rolname);

		same = strlen(now) == VARSIZE_ANY_EXHDR(name) &&
			memcmp(now, VARDATA_ANY(name), strlen(now)) == 0;
		ReleaseSysCache(tuple);
	}
	return same;
}

/* Is the current user a superuser, or the owner of the database? */
bool
saga_rights_is_dba(void)
{
	return superuser() ||
		saga_compat_owns(DatabaseRelationId, MyDatabaseId, GetUserId());
}

/* Does the current user have the rights of a role? */
bool
saga_rights_has_rights_of(Oid owner)
{
	Oid			user = GetUserId();

	return user == owner || has_privs_of_role(user, owner);
}

/* Does a role, known by its name, have the rights of another?  No role has none. */
bool
saga_rights_name_has_rights_of(const char *role, Oid owner)
{
	Oid			oid = get_role_oid(role, true);

	return OidIsValid(oid) && has_privs_of_role(oid, owner);
}

/* May the current user call the saga of an owner? */
bool
saga_rights_may_call(Oid owner, const text *owner_name)
{
	if (!saga_rights_has_rights_of(owner))
		return false;
	return is_still(owner, owner_name) || superuser();
}

/*
 * Why nobody has the rights of an owner any more; NULL if somebody may have
 * them.
 */
const char *
saga_rights_why_gone(Oid owner, const text *owner_name)
{
	const char *name = GetUserNameFromId(owner, true);

	if (is_still(owner, owner_name))
		return NULL;
	if (name == NULL)
		return psprintf("the saga's owner, role \"%s\", no longer exists; see saga.reassign()",
						text_to_cstring(owner_name));
	return psprintf("the saga's owner, role \"%s\", was renamed to \"%s\", or another role took its place; see saga.reassign()",
					text_to_cstring(owner_name), name);
}

/* Is the current user a member of the role named by saga.operator_role? */
static bool
is_operator(Oid user)
{
	Oid			role;

	if (saga_guc_operator_role == NULL || saga_guc_operator_role[0] == '\0')
		return false;
	role = get_role_oid(saga_guc_operator_role, true);
	return OidIsValid(role) && is_member_of_role_nosuper(user, role);
}

/* How far does the current user reach into everybody's sagas? */
static SagaReach
reach_into_all(void)
{
	Oid			user = GetUserId();

	if (is_operator(user))
		return SAGA_REACH_OPERATE;
	if (has_privs_of_role(user, ROLE_PG_READ_ALL_DATA))
		return SAGA_REACH_READ;
	if (has_privs_of_role(user, ROLE_PG_MONITOR))
		return SAGA_REACH_OUTLINE;
	return SAGA_REACH_NOTHING;
}

/* May the current user see everybody's sagas, perhaps without what is in them? */
bool
saga_rights_sees_all(void)
{
	return reach_into_all() != SAGA_REACH_NOTHING;
}

/* How far does the current user reach into an owner's saga? */
SagaReach
saga_rights_reach(Oid owner, const text *owner_name)
{
	return saga_rights_may_call(owner, owner_name) ? SAGA_REACH_OWN :
		reach_into_all();
}

/* A role's name, in the current context. */
const char *
saga_rights_role_name(Oid role)
{
	return GetUserNameFromId(role, false);
}

/*
 * Refuses a caller that could not act as a role: an owner of a database must not make
 * SQL run with rights that are not theirs to give.
 */
void
saga_rights_check_member(Oid role)
{
	if (!saga_compat_may_become(GetUserId(), role))
		ereport(ERROR,
				(errcode(ERRCODE_SAGA_PERMISSION_DENIED),
				 errmsg("must be member of role \"%s\"",
						GetUserNameFromId(role, false)),
				 errdetail("SQL of the saga would run as that role."),
				 errhint("Become a member of the role first, or let a superuser call this.")));
}

/*
 * Refuses to register SQL that no executor could run as the role; what can
 * be known now should not surface when the undo is due.
 */
void
saga_rights_check_can_run_sql(Oid role)
{
	HeapTuple	tuple;
	bool		superuser;
	bool		login;

	tuple = SearchSysCache1(AUTHOID, ObjectIdGetDatum(role));
	if (!HeapTupleIsValid(tuple))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("role with OID %u does not exist", role)));
	superuser = ((Form_pg_authid) GETSTRUCT(tuple))->rolsuper;
	login = ((Form_pg_authid) GETSTRUCT(tuple))->rolcanlogin;
	ReleaseSysCache(tuple);

	if (superuser && !saga_guc_allow_superuser)
		ereport(ERROR,
				(errcode(ERRCODE_SAGA_PERMISSION_DENIED),
				 errmsg("a superuser may not record an action or a SQL compensation here"),
				 errdetail("saga.allow_superuser is off."),
				 errhint("Record the step as an ordinary role.")));
	if (LOGIN_NEEDED && !login)
		ereport(ERROR,
				(errcode(ERRCODE_SAGA_PERMISSION_DENIED),
				 errmsg("role \"%s\" cannot run an action or a SQL compensation because it cannot log in",
						GetUserNameFromId(role, false)),
				 errdetail("The SQL runs in a process that connects as this role."),
				 errhint("ALTER ROLE %s LOGIN PASSWORD NULL lets it connect without giving anybody a password; notify and review need no login.",
						 quote_identifier(GetUserNameFromId(role, false)))));
}

/*
 * Why SQL recorded by a role, known by OID and name, cannot run now; NULL if it
 * can.  The role may have changed since the step was recorded.
 */
const char *
saga_rights_why_not_run(Oid role, const char *name)
{
	HeapTuple	tuple = SearchSysCache1(AUTHOID, ObjectIdGetDatum(role));
	const char *why = NULL;

	if (!HeapTupleIsValid(tuple))
		return psprintf("role \"%s\" no longer exists", name);
	else
	{
		Form_pg_authid form = (Form_pg_authid) GETSTRUCT(tuple);

		if (strcmp(NameStr(form->rolname), name) != 0)
			why = psprintf("role \"%s\" was renamed to \"%s\", or another role took its place",
						   name, NameStr(form->rolname));
		else if (form->rolsuper && !saga_guc_allow_superuser)
			why = psprintf("role \"%s\" is a superuser and saga.allow_superuser is off",
						   name);
		else if (LOGIN_NEEDED && !form->rolcanlogin)
			why = psprintf("role \"%s\" may no longer log in", name);
		else if (!form->rolsuper &&
				 !saga_compat_may_connect(MyDatabaseId, role))
			why = psprintf("role \"%s\" may no longer connect to the database",
						   name);
	}
	ReleaseSysCache(tuple);
	return why;
}

/*
 * Why a role that can run SQL must not run any for a saga of an owner now;
 * NULL if it may.  The context holds what is in the saga, which only roles with the
 * owner's rights may see; the role that recorded the step may have lost them.
 */
const char *
saga_rights_why_not_told(Oid role, Oid owner, const text *owner_name)
{
	const char *why;

	if (role == owner || superuser_arg(role))
		return NULL;
	why = saga_rights_why_gone(owner, owner_name);
	if (why != NULL || has_privs_of_role(role, owner))
		return why;
	return psprintf("role \"%s\" no longer has the rights of the saga's owner, role \"%s\"",
					GetUserNameFromId(role, false),
					text_to_cstring(owner_name));
}
