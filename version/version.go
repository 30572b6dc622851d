// Package version holds the version that the build stamps into every Weftnet binary.
package version

// Version is set by the linker (-X github.com/weftnet/weftnet/version.Version=...).
var Version = "dev"
