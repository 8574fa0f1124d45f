package storm

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// logAtMost is how large a node's log may grow before it is emptied. It holds many bursts.
const logAtMost = 16 << 20

// alarms are words that no node may log: of Go when a program breaks, and of our own when a promise is broken, in JSON.
var alarms = []string{"WARNING: DATA RACE", "panic: ", "fatal error: ", `"level":"ERROR"`}

// excused are errors that have their cause in a blow: a voter whose disk is broken.
var excused = []string{"the disk takes no writes", "the disk still takes no writes"}

// logs are the nodes' logs, read as they grow.
type logs struct {
	// read is how far each has been read, in bytes.
	read map[string]int64
}

func newLogs() *logs { return &logs{map[string]int64{}} }

// look reads what is new, and returns the lines with alarms. Logs that have grown large are emptied: the processes append to them, and go on at the beginning.
func (l *logs) look(paths []string) ([]string, error) {
	var found []string
	for _, path := range paths {
		fresh, err := l.fresh(path)
		if err != nil {
			return found, err
		}
		for line := range bytes.Lines(fresh) {
			if alarming(string(line)) {
				found = append(found, fmt.Sprintf("%s says: %s", filepath.Base(path), strings.TrimSpace(string(line))))
			}
		}
		if l.read[path] > logAtMost {
			if err := os.Truncate(path, 0); err != nil {
				return found, err
			}
			l.read[path] = 0
		}
	}
	return found, nil
}

func (l *logs) fresh(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if _, err := f.Seek(l.read[path], io.SeekStart); err != nil {
		return nil, err
	}
	b, err := io.ReadAll(f)
	l.read[path] += int64(len(b))
	return b, err
}

func alarming(line string) bool {
	for _, e := range excused {
		if strings.Contains(line, e) {
			return false
		}
	}
	for _, a := range alarms {
		if strings.Contains(line, a) {
			return true
		}
	}
	return false
}
