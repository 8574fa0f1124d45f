package raftwitness

import (
	"context"
	"io"
	"log/slog"
	"strings"

	"github.com/hashicorp/go-hclog"
)

// newLogger gives hashicorp/raft a logger whose lines go to log, one level lower than Raft thinks of them: what Raft calls a
// warning (a peer that cannot be reached, an election) is ordinary in a cluster that survives such things, and what matters of
// it is logged by this package.
func newLogger(log *slog.Logger) hclog.Logger {
	return hclog.New(&hclog.LoggerOptions{Name: "raft", Level: hclog.Debug, Output: hclogWriter{log}, DisableTime: true})
}

type hclogWriter struct{ log *slog.Logger }

var _ io.Writer = hclogWriter{}

// Write takes one line of hclog's text format: "[WARN]  raft: message: key=value".
func (w hclogWriter) Write(p []byte) (int, error) {
	line := strings.TrimSpace(string(p))
	level := slog.LevelDebug
	if strings.HasPrefix(line, "[ERROR]") || strings.HasPrefix(line, "[WARN]") {
		level = slog.LevelInfo
	}
	if _, rest, ok := strings.Cut(line, "]"); ok {
		line = strings.TrimSpace(rest)
	}
	w.log.Log(context.Background(), level, line)
	return len(p), nil
}
