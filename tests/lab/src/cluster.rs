//! A whole cluster: started, used, and gone when dropped.
