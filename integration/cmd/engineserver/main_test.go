package main

import (
	"bufio"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

const patience = 30 * time.Second

// The server is asked for endpoints, and leaves nothing when its input closes.
func TestEndsWithItsInputAndCleansUp(t *testing.T) {
	if testing.Short() {
		t.Skip("needs PostgreSQL")
	}
	in, stop := io.Pipe()
	out, said := io.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- run(t.Context(), []string{"--log-level", "error"}, in, said) }()
	line, err := bufio.NewReader(out).ReadString('\n')
	control, ok := strings.CutPrefix(strings.TrimSpace(line), "control=")
	if err != nil || !ok {
		t.Fatalf("%q, %v", line, err)
	}
	client := http.Client{Timeout: patience}
	post := func(path string, want int) []byte {
		t.Helper()
		response, err := client.Post("http://"+control+path, "", nil)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		if err != nil || response.StatusCode != want {
			t.Fatalf("%s: %s, %v: %s", path, response.Status, err, body)
		}
		return body
	}
	var endpoints [2]struct{ ID, Address string }
	for i := range endpoints {
		if err := json.Unmarshal(post("/new", http.StatusOK), &endpoints[i]); err != nil {
			t.Fatal(err)
		}
	}
	first, second := endpoints[0], endpoints[1]
	post("/restart?id="+first.ID, http.StatusOK)
	post("/restart?hard=1&id="+first.ID, http.StatusOK)
	post("/close?id="+first.ID, http.StatusOK)
	post("/close?id="+first.ID, http.StatusBadRequest)
	if conn, err := net.Dial("tcp", first.Address); err == nil {
		conn.Close()
		t.Error("an endpoint listens after its close")
	}
	if conn, err := net.Dial("tcp", second.Address); err != nil {
		t.Error(err)
	} else {
		conn.Close()
	}
	stop.Close()
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Fatal("has not ended")
	}
	mine := 0
	links, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, link := range links {
		if text, err := os.ReadFile(link); err == nil && strings.Contains(string(text), "(postgres)") {
			fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
			if len(fields) > 1 && fields[1] == strconv.Itoa(os.Getpid()) {
				mine++
			}
		}
	}
	if mine > 0 {
		t.Errorf("%d servers are left", mine)
	}
}
