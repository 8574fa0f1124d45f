package kineshim

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"github.com/sirupsen/logrus"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
)

func TestKineLogsReachSlogWithoutValues(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(&out, nil))
	captureLogrus(log)
	put := &etcdserverpb.PutRequest{Key: []byte("/secret"), Value: []byte("pass: word")}
	logrus.Errorf("error in put %s: %v", put, "FATAL: terminating connection (SQLSTATE 57P01)")
	logrus.Errorf("Insert error for key /a: duplicate key (SQLSTATE 23505)")
	logrus.Warnf("slow")
	logrus.Infof("chatter")
	got := out.String()
	for _, want := range []string{"terminating connection", "level=WARN", "message=slow"} {
		if !strings.Contains(got, want) {
			t.Errorf("the log lacks %q:\n%s", want, got)
		}
	}
	for _, not := range []string{"pass", "word", "chatter", "23505"} {
		if strings.Contains(got, not) {
			t.Errorf("the log holds %q:\n%s", not, got)
		}
	}
}
