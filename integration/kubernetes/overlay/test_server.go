// Package testserver takes the place of k8s.io/apiserver/pkg/storage/etcd3/testserver: each store is an endpoint of kineshim's,
// on a fresh database, that an engineserver starts. CONTROL names its control address.
package testserver

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/kubernetes"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest"
	"google.golang.org/grpc"
	storagetesting "k8s.io/apiserver/pkg/storage/testing"
)

// startBound is how long a fresh store may take, on a machine that runs other tests as well.
const startBound = time.Minute

// NewTestConfig returns a configuration of which RunEtcd heeds WatchProgressNotifyInterval.
func NewTestConfig(t testing.TB) *embed.Config {
	cfg := embed.NewConfig()
	cfg.WatchProgressNotifyInterval = 0
	cfg.Dir = t.TempDir()
	return cfg
}

// RunEtcd starts a fresh store, which ends with the test, and returns its client.
func RunEtcd(t testing.TB, cfg *embed.Config) *kubernetes.Client {
	t.Helper()
	form := url.Values{}
	if cfg != nil && cfg.WatchProgressNotifyInterval > 0 {
		form.Set("progress", cfg.WatchProgressNotifyInterval.String())
	}
	var store struct{ ID, Address string }
	if err := json.Unmarshal(post(t, "new", form), &store); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { post(t, "close", url.Values{"id": {store.ID}}) })
	client, err := kubernetes.New(clientv3.Config{
		Endpoints:   []string{"http://" + store.Address},
		DialTimeout: 10 * time.Second,
		DialOptions: []grpc.DialOption{grpc.WithBlock()},
		Logger:      zaptest.NewLogger(t, zaptest.Level(zapcore.ErrorLevel)).Named("etcd-client"),
	})
	if err != nil {
		t.Fatal(err)
	}
	client.KV = storagetesting.NewKVRecorder(client.KV)
	client.Kubernetes = storagetesting.NewKubernetesRecorder(client.Kubernetes)
	return client
}

// post asks the engineserver for something.
func post(t testing.TB, what string, form url.Values) []byte {
	t.Helper()
	client := http.Client{Timeout: startBound}
	response, err := client.PostForm(fmt.Sprintf("http://%s/%s", os.Getenv("CONTROL"), what), form)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	if response.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s: %s", what, response.Status, body)
	}
	return body
}
