// Package kubernetes pins the version of k8s.io/apiserver whose storage tests are run against kineshim (run.sh).
package kubernetes

import _ "k8s.io/apiserver/pkg/storage/etcd3"
