package main

import (
	"encoding/pem"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"kineshim/config"
)

func TestHealthChecksVerifyTheServer(t *testing.T) {
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	s.StartTLS()
	defer s.Close()
	ca := filepath.Join(t.TempDir(), "ca.crt")
	get := func(url string) error {
		c := &http.Client{Transport: &http.Transport{TLSClientConfig: apiServerTLS(config.APIServer{CAFile: ca}), DisableKeepAlives: true}}
		r, err := c.Get(url)
		if err == nil {
			r.Body.Close()
		}
		return err
	}
	if err := get(s.URL); err == nil || !strings.Contains(err.Error(), "apiserver.ca_file") {
		t.Errorf("without its file: %v", err)
	}
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := get(s.URL); err != nil { // names 127.0.0.1
		t.Error(err)
	}
	if err := get(strings.Replace(s.URL, "127.0.0.1", "localhost", 1)); err == nil {
		t.Error("a certificate for another name counts")
	}
	if err := os.WriteFile(ca, []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := get(s.URL); err == nil || !strings.Contains(err.Error(), "holds no certificate") {
		t.Errorf("with an empty file: %v", err)
	}
	if apiServerTLS(config.APIServer{}) != nil {
		t.Error("nothing is configured")
	}
}
