package kineshim

import (
	"context"
	"io"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/sirupsen/logrus"
)

// kine logs through logrus's global logger and ends the process through it. Both are taken over, once for the process.
var (
	logrusOnce sync.Once
	logrusLog  atomic.Pointer[slog.Logger]
	engines    engineSet
)

// captureLogrus sends what kine logs to log from now on.
func captureLogrus(log *slog.Logger) {
	logrusLog.Store(log)
	logrusOnce.Do(func() {
		logger := logrus.StandardLogger()
		logger.SetOutput(io.Discard)
		logger.ExitFunc = logrusExit
		logger.AddHook(logrusHook{})
	})
	level := logrus.InfoLevel
	if log.Enabled(context.Background(), slog.LevelDebug) {
		level = logrus.DebugLevel
	}
	logrus.SetLevel(level)
}

// logrusExit is what kine's Fatal comes to: the goroutine ends, and so does the engine.
func logrusExit(int) {
	engines.fail("kine called an error fatal")
	runtime.Goexit()
}

// logrusHook passes entries on to slog.
type logrusHook struct{}

// Levels are all.
func (logrusHook) Levels() []logrus.Level { return logrus.AllLevels }

// Fire logs one entry.
func (logrusHook) Fire(entry *logrus.Entry) error {
	level := slog.LevelDebug
	switch {
	case strings.Contains(entry.Message, "SQLSTATE 23505"):
		// A lost race, which is an answer.
	case entry.Level <= logrus.ErrorLevel:
		// kine calls every failed request an error. Which promise that breaks, if any, is said where it is known.
		level = slog.LevelWarn
	case entry.Level == logrus.WarnLevel:
		level = slog.LevelWarn
		// What kine tells of its compactions and slow statements at the info level is for who looks for it.
	}
	attrs := make([]any, 0, 2*len(entry.Data)+2)
	attrs = append(attrs, "message", withoutValues(entry.Message))
	for k, v := range entry.Data {
		attrs = append(attrs, k, v)
	}
	logrusLog.Load().Log(context.Background(), level, "kine", attrs...)
	return nil
}

// withoutValues cuts out of kine's messages about failed requests the request itself: it holds the values, which are secrets
// as like as not.
func withoutValues(message string) string {
	for _, about := range []string{"error in txn", "error in put", "error in compact"} {
		if strings.HasPrefix(message, about) {
			return about + ": " + message[strings.LastIndex(message, ": ")+len(": "):]
		}
	}
	return message
}

// engineSet is the engines of this process: one, or two for a moment. kine does not say which of them failed.
type engineSet struct {
	mu  sync.Mutex // guards all
	all map[*kineEngine]struct{}
}

func (s *engineSet) add(e *kineEngine) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all == nil {
		s.all = map[*kineEngine]struct{}{}
	}
	s.all[e] = struct{}{}
}

func (s *engineSet) remove(e *kineEngine) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.all, e)
}

func (s *engineSet) fail(why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for e := range s.all {
		e.fail(why)
	}
}
