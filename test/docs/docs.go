// Package docs holds the tests that keep the documentation true: what it names exists, and what
// exists is named.
package docs
