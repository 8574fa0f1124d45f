package joining

import (
	"fmt"
	"os"
	"path/filepath"

	"kineshim/ownership"

	"github.com/google/renameio/v2"
)

// ConfigFile is a newcomer's configuration: as it is there, or as it is to be written.
type ConfigFile struct {
	Path string
	// Text is what to write; nil: the file is there, and stays as it is.
	Text []byte
}

// Save writes the configuration, readable for the service and not for others.
func (f ConfigFile) Save() error {
	if f.Text == nil {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(f.Path), 0o750); err != nil {
		return fmt.Errorf("write the configuration: %w", err)
	}
	if err := renameio.WriteFile(f.Path, f.Text, 0o640); err != nil {
		return fmt.Errorf("write the configuration: %w", err)
	}
	return nil
}

// Own gives what root has made, the file and what is in the data directory, to the service's user.
func (f ConfigFile) Own(dataDir string) error {
	err := ownership.Give(dataDir)
	if err == nil && f.Text != nil {
		err = ownership.Share(f.Path, dataDir)
	}
	return err
}
