// Package version names the build.
package version

// Version is set by the linker (-X kineshim/version.Version=v1.2.3).
var Version = "dev"
