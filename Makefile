# saga: compensating transactions for PostgreSQL
#
# The ordinary PGXS way:
#
#   make                        compile          (PG_CONFIG=/path/to/pg_config)
#   make install                install          (DESTDIR= is honoured)
#   make installcheck           the tests, against a running server that has
#                               shared_preload_libraries = 'saga'
#   make dist                   the archive for PGXN, of what is committed
#
# From a checkout; these bring their own private server and leave both the
# checkout and the system's PostgreSQL as they were:
#
#   make demo                   a failing operation and its undo, in a minute
#   make test                   the whole suite
#   make soak SECONDS=3600      everybody at work while processes are killed at
#                               random (SEED=N repeats the chances of a run)
#   make valgrind               the regression tests under valgrind
#   make console                the page in a browser, for the database that PG*
#                               name (ARGS=--decide to decide there, too)
#   make bench                  the figures (make bench-instructions: those
#                               that do not depend on the machine's load)
#
# Arguments for the latter go in ARGS: make test ARGS='--regress basic'.

PG_CONFIG ?= pg_config

# Where the sources are: "./", or another folder in a VPATH build.
SAGA_SRCDIR := $(dir $(firstword $(MAKEFILE_LIST)))

# Which version this is, as saga.control says: of the extension, and of the release
SAGA_VERSION := $(shell sed -n "s/^default_version *= *'\(.*\)'.*/\1/p" $(SAGA_SRCDIR)saga.control)
SAGA_RELEASE := $(shell sed -n 's/^\# saga, release //p' $(SAGA_SRCDIR)saga.control)

EXTENSION = saga
MODULE_big = saga
PGFILEDESC = "saga - compensating transactions"
DATA = $(notdir $(sort $(wildcard $(SAGA_SRCDIR)saga--*.sql $(SAGA_SRCDIR)saga_cluster.sql)))
SAGA_HEADERS = $(wildcard $(SAGA_SRCDIR)src/*/*.h)
OBJS = $(patsubst $(SAGA_SRCDIR)%.c,%.o,$(sort $(wildcard $(SAGA_SRCDIR)src/*.c $(SAGA_SRCDIR)src/*/*.c)))
PG_CPPFLAGS = -I$(SAGA_SRCDIR)src -DSAGA_VERSION='"$(SAGA_VERSION)"' -DSAGA_RELEASE='"$(SAGA_RELEASE)"'
# What there is of the documents, in a folder of their own, since every extension
# has a README.md
DOCS := $(patsubst $(SAGA_SRCDIR)%,%,$(wildcard $(SAGA_SRCDIR)README.md $(SAGA_SRCDIR)doc/*.md))

# The tests in reading order.  A line of a list is a name and perhaps a word.
# "testbuild": the file needs what only -DSAGA_TEST compiles in (a virtual clock,
# fault points).  "prepared": it needs max_prepared_transactions.  Neither can run
# against any server that has saga, which is what installcheck promises; nor can
# the TAP files, which bring servers of their own.
REGRESS = $(shell sed -e 's/[[:space:]]*\#.*//' -e '/ testbuild\| prepared/d' $(SAGA_SRCDIR)test/regress.list)
REGRESS_OPTS = --load-extension=saga --encoding=UTF8 --no-locale
ISOLATION = $(shell sed -e 's/[[:space:]]*\#.*//' -e '/ testbuild/d' $(SAGA_SRCDIR)test/isolation.list)
ISOLATION_OPTS = --inputdir=$(SAGA_SRCDIR)test/isolation --load-extension=saga --encoding=UTF8 --no-locale

PGXS := $(shell $(PG_CONFIG) --pgxs 2>/dev/null)

ifneq ($(wildcard $(PGXS)),)

include $(PGXS)

docmoduledir := extension/saga

# PGXS would look for them where they come from.
uninstall: uninstall-docs
uninstall-docs:
	rm -f $(addprefix '$(DESTDIR)$(docdir)/$(docmoduledir)'/, $(notdir $(DOCS)))

.PHONY: uninstall-docs

# Few headers and quick compiles: every object depends on every header.
$(OBJS) $(OBJS:.o=.bc): $(SAGA_HEADERS)

# These name the version.
src/saga.o src/saga.bc src/ledger/version.o src/ledger/version.bc: $(SAGA_SRCDIR)saga.control

# A VPATH build starts in an empty folder.  (What tests include, psql looks for
# where it was started.)
ifneq ($(SAGA_SRCDIR),./)
$(shell mkdir -p sql $(sort $(dir $(OBJS))) && ln -sfn $(abspath $(SAGA_SRCDIR))/sql/include sql/include)
endif

else

# No server headers here (yet).  "make test" and "make demo" install what is
# missing; the rest says so.
all install installdirs uninstall installcheck:
	@echo "saga: \"$(PG_CONFIG) --pgxs\" leads nowhere: install PostgreSQL's server development files" >&2
	@echo "saga: (on Debian and Ubuntu: postgresql-server-dev-all), or set PG_CONFIG" >&2
	@false
clean distclean maintainer-clean: ;

.PHONY: all install installdirs uninstall installcheck clean distclean maintainer-clean

endif

# The archive holds what users need: .gitattributes names what it leaves out.
dist:
	@git -C $(SAGA_SRCDIR) rev-parse --verify --quiet HEAD >/dev/null || \
		{ echo "saga: make dist needs a checkout of the repository, and git" >&2; exit 1; }
	@git -C $(SAGA_SRCDIR) diff --quiet HEAD || echo "saga: what is not committed is not in the archive" >&2
	git -C $(SAGA_SRCDIR) archive --format=zip --prefix=saga-$(SAGA_RELEASE)/ HEAD >saga-$(SAGA_RELEASE).zip

ifeq ($(wildcard $(SAGA_SRCDIR)test/run),)

demo test soak valgrind bench bench-instructions:
	@echo "saga: make $@ needs a checkout of the repository" >&2
	@false

else

demo:
	@$(SAGA_SRCDIR)test/demo/run $(ARGS)

test:
	@$(SAGA_SRCDIR)test/run $(ARGS)

soak:
	@SAGA_SOAK_SECONDS=$(SECONDS) SAGA_SOAK_SEED=$(SEED) $(SAGA_SRCDIR)test/run --tap 080_soak $(ARGS)

valgrind:
	@$(SAGA_SRCDIR)test/run --valgrind $(ARGS)

bench:
	@$(SAGA_SRCDIR)test/bench/run $(ARGS)

bench-instructions:
	@$(SAGA_SRCDIR)test/bench/run instructions wal $(ARGS)

endif

# What it needs is installed beside it, in console/node_modules.
console:
	@$(SAGA_SRCDIR)console/install >&2 && exec node $(SAGA_SRCDIR)console/bin/saga-console.js $(ARGS)

.PHONY: console demo dist test soak valgrind bench bench-instructions
