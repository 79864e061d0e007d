"""The variational bound: its terms, the estimators of their sum, and the result with its error bars."""
