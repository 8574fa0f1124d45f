package statfs

import (
	"strings"
	"testing"
)

func TestFileSystemIsMeasured(t *testing.T) {
	free, total, err := Space(t.TempDir())
	if err != nil || free <= 0 || total < free || total < 1<<20 {
		t.Errorf("%d of %d bytes, %v", free, total, err)
	}
	if _, _, err := Space("/nowhere/at/all"); err == nil || !strings.Contains(err.Error(), "/nowhere/at/all") {
		t.Error(err)
	}
}
