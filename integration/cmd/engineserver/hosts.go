package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"kineshim/integration/enginehost"
	"kineshim/integration/pgtest"
	"kineshim/kineshim"
)

const (
	// template is the database that holds what an engine makes of an empty one. Copying it spares each new store that.
	template = "engine_template"
	// sqlBound is for one statement that creates or drops a database.
	sqlBound = 30 * time.Second
	// failBound is how long an engine may take to notice that its sessions have been ended.
	failBound = 10 * time.Second
)

// hosts are the endpoints that run, by ID. Its methods may be called from any goroutine.
type hosts struct {
	pg     *pgtest.Server
	engine func(progress time.Duration) kineshim.EngineFactory
	log    *slog.Logger

	sql   sync.Mutex // guards admin
	admin *pgx.Conn

	mu      sync.Mutex // guards the fields below
	next    int
	running map[string]*enginehost.Host
}

// newHosts prepares the template.
func newHosts(pg *pgtest.Server, engine func(time.Duration) kineshim.EngineFactory, log *slog.Logger) (*hosts, error) {
	ctx, cancel := context.WithTimeout(context.Background(), sqlBound)
	defer cancel()
	admin, err := pgx.Connect(ctx, pg.SuperDSN("postgres"))
	if err != nil {
		return nil, err
	}
	h := &hosts{pg: pg, engine: engine, log: log, admin: admin, running: map[string]*enginehost.Host{}}
	host, err := enginehost.Start(enginehost.Options{Engine: engine(0), PG: pg, Database: template, Log: log})
	if err != nil {
		return nil, errors.Join(err, h.close())
	}
	// Without connections no autovacuum worker is in the way of a copy.
	err = errors.Join(host.Close(), h.exec("ALTER DATABASE "+template+" ALLOW_CONNECTIONS false"),
		h.exec("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = '"+template+"'"))
	if err != nil {
		return nil, errors.Join(err, h.close())
	}
	return h, nil
}

func (h *hosts) exec(sql string) error {
	ctx, cancel := context.WithTimeout(context.Background(), sqlBound)
	defer cancel()
	h.sql.Lock()
	defer h.sql.Unlock()
	_, err := h.admin.Exec(ctx, sql)
	return err
}

// control answers POST /new, /restart and /close. Errors have status 400 or 500, and their text.
func (h *hosts) control() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /new", h.serveNew)
	mux.HandleFunc("POST /restart", func(w http.ResponseWriter, r *http.Request) {
		h.serveOne(w, r, func(id string, host *enginehost.Host) error { return h.restart(host, r.FormValue("hard") != "") })
	})
	mux.HandleFunc("POST /close", func(w http.ResponseWriter, r *http.Request) { h.serveOne(w, r, h.end) })
	return mux
}

// serveNew starts an endpoint on a fresh database: a copy of the template or, with virgin=1, one in which nothing has ever
// been; progress is how often idle watches are told of it. It answers {"id", "address"}.
func (h *hosts) serveNew(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	h.next++
	id := strconv.Itoa(h.next)
	h.mu.Unlock()
	progress, err := time.ParseDuration(cmp.Or(r.FormValue("progress"), "0s"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	host, err := h.start(database(id), r.FormValue("virgin") != "", progress)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	h.mu.Lock()
	h.running[id] = host
	h.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]string{"id": id, "address": host.Address()}) // the client may have gone
}

func database(id string) string { return "engine" + id }

func (h *hosts) start(name string, virgin bool, progress time.Duration) (*enginehost.Host, error) {
	// A file copy of the template is half the cost of logging it.
	from := " TEMPLATE " + template + " STRATEGY file_copy"
	if virgin {
		from = ""
	}
	if err := h.exec("CREATE DATABASE " + name + " OWNER " + pgtest.Role + from); err != nil {
		return nil, err
	}
	host, err := enginehost.Start(enginehost.Options{Engine: h.engine(progress), PG: h.pg, Database: name, Log: h.log})
	if err != nil {
		return nil, errors.Join(err, h.drop(name))
	}
	return host, nil
}

func (h *hosts) drop(name string) error { return h.exec("DROP DATABASE " + name + " WITH (FORCE)") }

// serveOne does something to the endpoint that the parameter id names.
func (h *hosts) serveOne(w http.ResponseWriter, r *http.Request, do func(string, *enginehost.Host) error) {
	id := r.FormValue("id")
	h.mu.Lock()
	host := h.running[id]
	h.mu.Unlock()
	if host == nil {
		http.Error(w, "no such id", http.StatusBadRequest)
		return
	}
	if err := do(id, host); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}

// restart starts the engine anew; hard: after it has lost all of its database sessions.
func (h *hosts) restart(host *enginehost.Host, hard bool) error {
	if !hard {
		return host.RestartEngine()
	}
	failed := host.EngineFailed()
	err := h.exec("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '" + host.Database + "'")
	if err != nil {
		return err
	}
	timeout := time.NewTimer(failBound)
	defer timeout.Stop()
	select {
	case <-failed:
	case <-timeout.C:
		return fmt.Errorf("the engine has not noticed within %v that its sessions are gone", failBound)
	}
	return host.RestartEngine()
}

func (h *hosts) end(id string, host *enginehost.Host) error {
	h.mu.Lock()
	delete(h.running, id)
	h.mu.Unlock()
	return errors.Join(host.Close(), h.drop(host.Database))
}

// close ends what runs. The databases go with their server.
func (h *hosts) close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	var errs []error
	for id, host := range h.running {
		errs = append(errs, host.Close())
		delete(h.running, id)
	}
	ctx, cancel := context.WithTimeout(context.Background(), sqlBound)
	defer cancel()
	return errors.Join(append(errs, h.admin.Close(ctx))...)
}
