// Package chart holds the tests of the Helm chart: it is rendered and installed by the real helm
// into a real API server, which judges schemas, RBAC and admission.
package chart
