// Package handover tries what happens to the data when kine and the native engine take the table from one another: adopting,
// leaving in order, and leaving without a word. All of it is tests, on real PostgreSQL, with plain kine from its public packages.
package handover
