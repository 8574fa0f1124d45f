package joining

import (
	"fmt"
	"os"
	"path/filepath"

	"kineshim/durable"
	"kineshim/ownership"
)

// ConfigFile is a newcomer's configuration: as it is there, or as it is to be written.
type ConfigFile struct {
	Path string
	// Text is what to write; nil: the file is there, and stays as it is.
	Text []byte
}

// Save writes the configuration, readable for the service that dataDir belongs to, and not for others.
func (f ConfigFile) Save(dataDir string) error {
	if f.Text == nil {
		return nil
	}
	_, gid, err := ownership.Owner(dataDir)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(f.Path), 0o750)
	}
	if err == nil {
		err = durable.WriteAs(f.Path, f.Text, 0o640, -1, gid)
	}
	if err != nil {
		return fmt.Errorf("write the configuration: %w", err)
	}
	return nil
}

// Own gives what root has made to the service that dataDir belongs to: what is in there, and the configuration to read.
func (f ConfigFile) Own(dataDir string) error {
	if err := ownership.Give(dataDir); err != nil {
		return err
	}
	return ownership.Share(f.Path, dataDir)
}
