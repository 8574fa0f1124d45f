package monitor

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func lag(n uint64) *uint64 { return &n }

// The nodes that load balancers ask.
var (
	servingPrimary = Health{Node: "a", Role: "primary", Primary: "a", Epoch: 3, Mode: "paired", Armed: true, GateOpen: true}
	closedPrimary  = Health{Node: "a", Role: "primary", Primary: "a", Epoch: 3, Mode: "paired", Gate: "no contact to a majority"}
	healthyStandby = Health{Node: "b", Role: "standby", Primary: "a", Epoch: 3, Mode: "paired", Armed: true, Forwards: true, Streaming: true, LagBytes: lag(2048), Gate: "standby"}
	strayStandby   = Health{Node: "b", Role: "standby", Primary: "a", Epoch: 3, Mode: "solo", Forwards: true, Gate: "standby"}
	orphan         = Health{Node: "b", Role: "standby", Primary: "a", Epoch: 3, Mode: "paired", Streaming: true, Gate: "standby"}
	toBecome       = Health{Node: "b", Role: "standby", Primary: "b", Epoch: 4, Mode: "solo", Streaming: true, Gate: "promoting"}
	cloning        = Health{Node: "b", Role: "cloning", Primary: "a", Forwards: true, Gate: "no data"}
	hung           = Health{Node: "a", Role: "primary", Primary: "a", GateOpen: true, Decided: aliveWithin + time.Second}
)

func TestPagesAnswerByRole(t *testing.T) {
	const yes, no = http.StatusOK, http.StatusServiceUnavailable
	for _, c := range []struct {
		name                              string
		h                                 Health
		healthz, readyz, primary, standby int
	}{
		{"a primary whose gate is open", servingPrimary, yes, yes, yes, no},
		{"a primary whose gate is closed", closedPrimary, yes, no, no, no},
		{"a standby that streams", healthyStandby, yes, yes, no, yes},
		{"a standby that does not stream", strayStandby, yes, yes, no, no},
		{"a standby that knows of no primary that answers", orphan, yes, no, no, yes},
		{"a standby that is being promoted", toBecome, yes, no, no, no},
		{"a node that is being cloned", cloning, yes, yes, no, no},
		{"a node whose agent hangs", hung, no, no, no, no},
	} {
		pages := NodePages(func() Health { return c.h }, http.NotFoundHandler())
		for path, want := range map[string]int{
			"/healthz": c.healthz, "/liveness": c.healthz, "/readyz": c.readyz, "/readiness": c.readyz,
			"/": c.primary, "/primary": c.primary, "/master": c.primary, "/leader": c.primary, "/read-write": c.primary,
			"/standby": c.standby, "/replica": c.standby,
		} {
			for _, method := range []string{"GET", "HEAD", "OPTIONS"} {
				w := httptest.NewRecorder()
				pages.ServeHTTP(w, httptest.NewRequest(method, path, nil))
				if w.Code != want {
					t.Errorf("%s: %s %s: %d, want %d", c.name, method, path, w.Code, want)
				}
				if (w.Body.Len() > 0) != (method == "GET") {
					t.Errorf("%s: %s %s: the body has %d bytes", c.name, method, path, w.Body.Len())
				}
			}
		}
	}
}

func TestABodySaysRoleEpochArmedAndWhy(t *testing.T) {
	w := httptest.NewRecorder()
	NodePages(func() Health { return closedPrimary }, http.NotFoundHandler()).ServeHTTP(w, httptest.NewRequest("GET", "/primary", nil))
	var got map[string]any
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
		t.Fatalf("%v: %s", err, w.Body)
	}
	for key, want := range map[string]any{"role": "primary", "epoch": 3.0, "armed": false, "primary": "a", "why": "the gate is closed: no contact to a majority"} {
		if got[key] != want {
			t.Errorf("%s is %v, want %v", key, got[key], want)
		}
	}
}

func TestAStandbyMayLackAsMuchAsTheAskerAllows(t *testing.T) {
	unknown := healthyStandby
	unknown.LagBytes = nil
	for _, c := range []struct {
		h     Health
		query string
		want  int
	}{
		{healthyStandby, "?lag=2048", 200}, {healthyStandby, "?lag=2047", 503}, {healthyStandby, "?lag=2kB", 200}, {healthyStandby, "?lag=1kB", 503},
		{healthyStandby, "?lag=1MB", 200}, {healthyStandby, "?lag=0", 503}, {healthyStandby, "?lag=", 200},
		{unknown, "", 200}, {unknown, "?lag=1TB", 503},
		{healthyStandby, "?lag=much", 503}, {healthyStandby, "?lag=-1", 503}, {healthyStandby, "?lag=99999999999TB", 503},
	} {
		w := httptest.NewRecorder()
		NodePages(func() Health { return c.h }, http.NotFoundHandler()).ServeHTTP(w, httptest.NewRequest("GET", "/replica"+c.query, nil))
		if w.Code != c.want {
			t.Errorf("%s: %d, want %d: %s", c.query, w.Code, c.want, w.Body)
		}
	}
}

func TestNothingCanBeWritten(t *testing.T) {
	metrics := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(200) })
	for _, path := range []string{"/", "/primary", "/healthz", "/metrics"} {
		for _, method := range []string{"POST", "PUT", "DELETE", "PATCH"} {
			w := httptest.NewRecorder()
			NodePages(func() Health { return servingPrimary }, metrics).ServeHTTP(w, httptest.NewRequest(method, path, strings.NewReader("x")))
			if w.Code != http.StatusMethodNotAllowed {
				t.Errorf("%s %s: %d", method, path, w.Code)
			}
		}
	}
	w := httptest.NewRecorder()
	NodePages(func() Health { return servingPrimary }, metrics).ServeHTTP(w, httptest.NewRequest("GET", "/restart", nil))
	if w.Code != http.StatusNotFound {
		t.Errorf("/restart: %d", w.Code)
	}
}
